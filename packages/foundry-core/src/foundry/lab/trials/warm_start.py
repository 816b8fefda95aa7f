"""What a rung leaves to the next one: a checkpoint from before its decay, where the next rung of the same arm and seed
begins. See `foundry.core.training.longer`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from foundry.core.config import Experiment
from foundry.core.contracts import Edits
from foundry.core.training.budget import TrainingBudget
from foundry.core.training.longer import shared_steps
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
    shared = shared_steps(short, (ends[0], ends[1]))
    if shared < max(1, WORTHWHILE * ends[1]):
        return None
    often = short.checkpoints.save_interval
    saves = -(-shared // often) if often else 1
    interval = shared // saves
    step = interval * saves
    return WarmStart(step, interval, keep=(ends[0] - step) // interval + 2)


def drop_checkpoints(run: Path) -> None:
    """A finished trial's figures are in the ledger; its weights are of no more use."""
    shutil.rmtree(run / "checkpoints", ignore_errors=True)


def _steps(experiment: Experiment, flops_per_position: float) -> int | None:
    in_order = experiment.training.tokens is not None  # of its own seed, and not just of any
    rows = open_rows(experiment) if in_order else training_rows(experiment)
    return TrainingBudget.of(experiment, rows, flops_per_position).steps
