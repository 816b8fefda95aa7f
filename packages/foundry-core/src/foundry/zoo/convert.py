"""A pretrained model as a run folder, which `load_run` and every command that asks for a RUN take; and as an experiment
that begins with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.core.contracts import EnvironmentFailure, InvalidData
from foundry.core.run import SCHEMA_VERSION, Run
from foundry.core.system import replace_durably, user_path
from foundry.zoo.config_json import experiment_of
from foundry.zoo.find import find
from foundry.zoo.pretrained import TOKENIZER, load, name_of
from foundry.zoo.shards import WeightsFolder
from foundry.zoo.staging import refuse_taken, staged

if TYPE_CHECKING:
    from foundry.core.config import Experiment


def convert(
    name: str | Path,
    out: str | Path,
    *,
    dtype: str | None = None,
    block_size: int | None = None,
    note: Callable[[str], None] | None = None,
) -> Run:
    """Write the run folder OUT, whose only checkpoint, of step 0, holds the pretrained weights.

    Args:
        dtype: as of `load_pretrained`.
        block_size: a shorter context.
        note: as of `load_pretrained`.

    Raises:
        InvalidData: the model cannot be read, has no tokenizer, or OUT is there.
        EnvironmentFailure: OUT cannot be written.
    """
    from foundry.core.training import checkpoint as checkpoints
    from foundry.core.training.device import resolve
    from foundry.core.training.progress import Progress
    from foundry.zoo.weights import state_of

    refuse_taken(Path(out))
    folder = WeightsFolder(find(name, note))
    experiment, tokenizer, model = load(folder.path, dtype=dtype, block_size=block_size, note=note)
    if tokenizer is None:
        raise InvalidData(
            f"{folder.path}: has no tokenizer.json, and a run is a model with its tokenizer",
            "put the model's tokenizer.json beside its weights",
        )
    plugins = experiment.registry
    state = asdict(Progress()) | {
        "identity": experiment.identity,
        "loader": {},
        "tokenizer": tokenizer.hash,
        "plugins": plugins.fingerprint(),
        "ema_updates": 0,
    }
    config: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": name_of(name),
        "identity": experiment.identity,
        "seed": experiment.seed,
        "experiment": experiment.plain(),
        "init_from": {"run": str(folder.path), "step": 0, "sha256": folder.sha256},
        "device": asdict(resolve(experiment.training)),
        "data": "",
        "plugins": plugins.inventory(),
        "versions": {package: version(package) for package in ("foundry-core", "torch", "numpy")},
    }
    with staged(Path(out)) as partial:
        run = Run(partial)
        try:
            checkpoints.save(run.checkpoints, 0, checkpoints.Checkpoint({"model": state_of(model)}, state))
        except EnvironmentFailure as error:  # no training goes on from here: `staged` says what the disk's answer means
            raise error.__cause__ or error from None
        run.tokenizer_file.parent.mkdir(exist_ok=True)
        replace_durably(run.tokenizer_file, json.dumps(tokenizer.to_json()).encode())
        replace_durably(run.config_file, json.dumps(config, indent=1).encode())
    return Run(Path(out))


def experiment_from(name: str | Path, *, block_size: int | None = None) -> Experiment:
    """The experiment that goes on training a pretrained model: its model_args and tokenizer, and `init_from`. Reads
    config.json alone, and imports no torch."""
    from foundry.core.config import from_plain
    from foundry.core.registry import registry

    folder, here = WeightsFolder(find(name)), registry()
    changes = {} if block_size is None else {"block_size": block_size}
    has_one = (folder.path / TOKENIZER).exists()
    like = experiment_of(folder.config, here, name=name_of(name), tokenizer=has_one, changes=changes)
    is_folder = isinstance(name, Path) or user_path(name).is_dir()
    named = str(Path(name).absolute()) if is_folder else f"zoo:{name}"
    return from_plain({**like.explicit, "init_from": named}, registry=here)
