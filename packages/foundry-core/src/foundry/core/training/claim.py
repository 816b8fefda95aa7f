"""Whose a run folder is: one experiment's, and one process's at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from foundry.core.config import from_plain
from foundry.core.config.difference import leaves
from foundry.core.config.identity import canonical
from foundry.core.contracts import FoundryError, InvalidData, Origin, Rows
from foundry.core.run import SCHEMA_VERSION, Run
from foundry.core.system import replace_durably, writing
from foundry.core.training import checkpoint as checkpoints
from foundry.core.training.device import Device
from foundry.core.training.init_from import origin_of

if TYPE_CHECKING:
    from foundry.core.config import Experiment

Resume = Literal["auto", "must", "never"]


def claim(
    run: Run, experiment: Experiment, resume: Resume, note: Callable[[str], None]
) -> AbstractContextManager[None]:
    """Refuse to mix two runs in one folder; the returned context keeps other processes out of it.

    Raises:
        InvalidData: it is another experiment's, or no run folder, or has nothing to resume from.
        EnvironmentFailure: it cannot be written.
    """
    with writing(run.path):
        run.refuse_strangers()
        if resume == "never" and (aside := run.set_aside()):
            note(f"the earlier run is now {aside}")
        if run.config_file.exists():
            _refuse_weights_alone(run)
            refuse_another(run, experiment)
            _note_another_origin(run, experiment, note)
        if resume == "must" and not checkpoints.steps(run.checkpoints):
            raise InvalidData(f"{run.path} has no checkpoint to resume from", "drop --resume must to start it")
        return nullcontext() if run.result() else run.held()


def _refuse_weights_alone(run: Run) -> None:
    """Raises:
    InvalidData: the run was made of a pretrained model: it has no rows, no optimizer and no random streams to go on
        with, and its identity does not say that its weights are not those of its seed.
    """
    if not run.config().get("data"):
        raise InvalidData(
            f"{run.path} holds pretrained weights, and no training to go on with",
            f"train from them into another folder: --set init_from={run.path} --set data.tokenizer=pretrained",
        )


def refuse_another(run: Run, experiment: Experiment) -> None:
    """Raises:
    InvalidData: the run is of another experiment or seed.
    """
    config = run.config()
    if (config["identity"], config["seed"]) != (experiment.identity, experiment.seed):
        raise InvalidData(
            f"{run.path} holds another experiment: {_differences(run, config, experiment)}",
            "choose another --out, or --resume never to set it aside",
        )


def _note_another_origin(run: Run, experiment: Experiment, note: Callable[[str], None]) -> None:
    began, now = run.config().get("init_from"), origin_of(experiment)
    if began and now and began["sha256"] != now.sha256:
        changed = f"which is at step {now.step} now" if now.step else "which holds other weights now"
        note(f"{run.path} began with step {began['step']} of {began['run']}, {changed}")


def _differences(run: Run, config: Mapping[str, Any], experiment: Experiment) -> str:
    """`training.learning_rate is 0.001 there, 0.5 here; ...`, of what decides the result."""
    try:
        there = from_plain(config["experiment"], project=experiment.project, registry=experiment.registry)
    except FoundryError:  # it needs a plugin that is not here
        return f"{config['identity'][:8]}, not {experiment.identity[:8]}"
    theirs, ours = ({**dict(leaves(canonical(e))), "seed": e.seed} for e in (there, experiment))
    keys = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    full = [dict(leaves(e.plain())) for e in (there, experiment)]
    said = [f"{key} is {full[0].get(key)} there, {full[1].get(key)} here" for key in keys]
    return "; ".join([*said[:3], *([f"and {len(said) - 3} more"] if len(said) > 3 else [])])


def write_config(run: Run, experiment: Experiment, device: Device, rows: Rows, origin: Origin | None) -> None:
    """config.json and the tokenizer: what `load_run` and a resume need."""
    config = {
        "schema_version": SCHEMA_VERSION,
        "name": experiment.name,
        "identity": experiment.identity,
        "seed": experiment.seed,
        "experiment": experiment.plain(),
        "init_from": origin and origin._asdict(),
        "device": asdict(device),
        "data": rows.fingerprint,
        "plugins": experiment.registry.inventory(),
        "versions": {name: version(name) for name in ("foundry-core", "torch", "numpy")},
    }
    with writing(run.path):
        run.tokenizer_file.parent.mkdir(exist_ok=True)
        replace_durably(run.tokenizer_file, json.dumps(rows.tokenizer.to_json()).encode())
        replace_durably(run.config_file, json.dumps(config, indent=1).encode())
