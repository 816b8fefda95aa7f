"""`init_from`: the first weights of a run, where they are another run's and not its seed's.

They are the source's judged weights, of its newest checkpoint, and the source's tokenizer comes with them: ids mean
nothing by another. Their hash is kept in config.json, because the folder may be trained on meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from foundry.core.contracts import InvalidData, InvalidExperiment
from foundry.core.run import Run, choose_checkpoint, restore_weights
from foundry.core.training import checkpoint as checkpoints

if TYPE_CHECKING:
    from foundry.core.config import Experiment
    from foundry.core.model import GPT


class Origin(NamedTuple):
    """Which weights a run began with."""

    run: str
    step: int
    sha256: str  # of the file that holds them, by its checkpoint's manifest


def source_run(experiment: Experiment) -> Run | None:
    """The run that `init_from` names, whose tokenizer is the one that the experiment asks for.

    Raises:
        InvalidExperiment: it names something that cannot be loaded yet.
        InvalidData: it is no run folder, or has another tokenizer.
    """
    if experiment.init_from is None:
        return None
    if experiment.init_from.startswith("zoo:"):
        raise InvalidExperiment(f"init_from: {experiment.init_from}: the zoo is not built yet", "name a run folder")
    run = Run(Path(experiment.init_from).expanduser())
    if not run.config_file.exists():
        raise InvalidData(f"init_from: {run.path} is not a run folder", f"relative paths start at {Path.cwd()}")
    theirs, ours = run.config()["experiment"].get("data", {}).get("tokenizer"), experiment.plain()["data"]["tokenizer"]
    if theirs != ours:
        raise InvalidData(
            f"init_from: {run.path} was trained with data.tokenizer {theirs}, this experiment has {ours}",
            "its weights go with its tokenizer: choose the same",
        )
    return run


def origin_of(experiment: Experiment) -> Origin | None:
    """The weights that the experiment would begin with now, not verified; None if there are none to be found."""
    if experiment.init_from is None:
        return None
    source = Run(Path(experiment.init_from).expanduser())
    with suppress(InvalidData):
        for step in checkpoints.steps(source.checkpoints)[-1:]:
            return _origin(source, step, checkpoints.hashes(checkpoints.path_of(source.checkpoints, step)))
    return None


def load_initial_weights(model: GPT, source: Run) -> Origin:
    """Fill `model` with the judged weights of the newest checkpoint of `source`.

    Raises:
        InvalidData: there is no checkpoint that verifies, or a parameter is missing, unknown or of another shape.
    """
    saved = choose_checkpoint(source, "last")
    restore_weights(model, saved.judged_weights, source=f"init_from: {source.path}")
    return _origin(source, saved.state["step"], saved.hashes)


def _origin(run: Run, step: int, hashes: Mapping[str, str]) -> Origin:
    file = "ema.safetensors" if "ema.safetensors" in hashes else "model.safetensors"
    return Origin(str(run.path), step, hashes[file])
