"""A longer schedule goes on from a shorter one, where the two begin alike.

With warm-up, stable and decay, the learning rate of 1/3 of a budget is that of the whole budget until the shorter one
decays. So a rung leaves a checkpoint from before its decay, and the next rung of the same arm and seed begins there:
the same bits as from the start, for less. Nothing asks which schedule it is: two schedules share the steps in which
their factors are equal.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from foundry.core.config import Experiment
from foundry.core.contracts import Edits, InvalidData
from foundry.core.run import Run
from foundry.core.system import replace_durably, writing
from foundry.core.training import checkpoint as checkpoints
from foundry.core.training.budget import TrainingBudget
from foundry.core.training.open_rows import open_rows
from foundry.lab.trials.fingerprint import training_rows

WORTHWHILE = 0.05
"""Share of the longer training below which a copy is not worth its trouble."""


@dataclass(frozen=True)
class WarmStart:
    """The steps that a training shares with the longer one that may follow it."""

    step: int  # the last one of them, after which a checkpoint stays
    interval: int  # between checkpoints, so that there is one
    keep: int  # checkpoints, so that it is still there at the end

    @property
    def edits(self) -> Edits:
        """What the shorter training needs. Its result does not depend on it."""
        return {"checkpoints.save_interval": self.interval, "checkpoints.keep": self.keep}


def next_share(share: Fraction, rungs: Sequence[Fraction]) -> Fraction | None:
    """The rung after this one."""
    return next((rung for rung in rungs if rung > share), None)


def warm_start_of(short: Experiment, long: Experiment, flops_per_position: float) -> WarmStart | None:
    """What `short` can leave to `long`, which differs from it in the budget only; None if that is too little."""
    ends = [_steps(experiment, flops_per_position) for experiment in (short, long)]
    if ends[0] is None or ends[1] is None:
        return None
    schedule = short.registry.build("schedule", short.training.schedule)
    shared = 0
    while shared < ends[0] and schedule(shared, shared / ends[0]) == schedule(shared, shared / ends[1]):
        shared += 1
    if shared < max(1, WORTHWHILE * ends[1]):
        return None
    often = short.checkpoints.save_interval
    saves = -(-shared // often) if often else 1
    interval = shared // saves
    step = interval * saves
    return WarmStart(step, interval, keep=(ends[0] - step) // interval + 2)


def adopt(shorter: Path, longer: Path, identity: str, step: int) -> bool:
    """Let the training in folder `longer`, of experiment `identity`, begin after `step` steps of the one in `shorter`.
    False if that left no such checkpoint, or `longer` has begun already."""
    source, target = Run(shorter), Run(longer)
    if checkpoints.steps(target.checkpoints) or target.config_file.exists():
        return False
    try:
        saved = checkpoints.load(checkpoints.path_of(source.checkpoints, step))
    except InvalidData:  # it was trained by an earlier sweep, or is damaged: then from the start
        return False
    with writing(target.path):
        target.path.mkdir(parents=True, exist_ok=True)
        if source.metrics_file.exists():  # the trainer drops the rows after `step`
            replace_durably(target.metrics_file, source.metrics_file.read_bytes())
    checkpoints.save(
        target.checkpoints, step, checkpoints.Checkpoint(saved.tensors, {**saved.state, "identity": identity})
    )
    return True


def drop_checkpoints(run: Path) -> None:
    """A finished trial's figures are in the ledger; its weights are of no more use."""
    shutil.rmtree(run / "checkpoints", ignore_errors=True)


def _steps(experiment: Experiment, flops_per_position: float) -> int | None:
    in_order = experiment.training.tokens is not None  # of its own seed, and not just of any
    rows = open_rows(experiment) if in_order else training_rows(experiment)
    return TrainingBudget.of(experiment, rows, flops_per_position).steps
