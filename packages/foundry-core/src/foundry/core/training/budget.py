"""How long to train: optimizer steps, tokens, FLOPs or seconds.

A token is a target that is trained on. A position is a place in a row: where a document ends before its row does, the
rest is padding, which costs as much and teaches nothing. So tokens are what arms are compared by, and positions are
what FLOPs are counted by: in `foundry.core.analyze`. Arms are made equal in `foundry.lab.trials.costs`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry.core.contracts import Rows

if TYPE_CHECKING:
    from foundry.core.config import Experiment


@dataclass(frozen=True)
class StepSize:
    """What one optimizer step of an experiment takes."""

    positions: int
    tokens: float  # the mean over the training text

    @classmethod
    def of(cls, experiment: Experiment, rows: Rows) -> StepSize:
        batch_size = experiment.training.batch_size
        tokens = batch_size * rows.tokens_per_epoch / rows.rows_per_epoch
        return cls(batch_size * experiment.model_args.block_size, tokens)

    @property
    def padding(self) -> float:
        """The share of the positions that is padding."""
        return 1 - self.tokens / self.positions


@dataclass(frozen=True)
class TrainingBudget:
    """Either a number of steps, known in advance, or seconds of training time."""

    steps: int | None
    seconds: float | None = None

    @classmethod
    def of(cls, experiment: Experiment, rows: Rows, flops_per_position: float) -> TrainingBudget:
        """The budget that the experiment states: as few whole steps as have so many tokens or FLOPs.

        Args:
            rows: those of the experiment, with its seed, whose order decides when so many tokens are reached.
        """
        training = experiment.training
        if training.seconds is not None:
            return cls(None, training.seconds)
        if training.tokens is not None:
            return cls(math.ceil(rows_with(rows, training.tokens) / training.batch_size))
        if training.flops is not None:
            flops_per_step = StepSize.of(experiment, rows).positions * flops_per_position
            return cls(max(1, math.ceil(training.flops / flops_per_step)))
        return cls(training.max_iters)

    def progress(self, step: int, seconds: float) -> float:
        """The share used up after `step` steps and `seconds` of training, in [0, 1]."""
        used = step / self.steps if self.steps is not None else seconds / self.seconds  # type: ignore[operator]
        return min(1.0, used)

    def spent(self, step: int, seconds: float) -> bool:
        return self.progress(step, seconds) >= 1.0

    def seconds_left(self, step: int, seconds: float) -> float:
        """An estimate from the pace so far."""
        done = self.progress(step, seconds)
        return seconds * (1 - done) / done if done > 0 else math.nan


MUCH_PADDING = 0.25
"""Share of the positions from which on a training says that they are padding."""


MANY_EPOCHS = 20
"""From which on a training says how small its text is. Up to 4, repeated text is as good as new, and from 16 on it
teaches little (Muennighoff et al., 2023, arXiv:2305.16264)."""


def remarks_on_rows(experiment: Experiment, rows: Rows, steps: int | None) -> list[str]:
    """What to know of the text that is trained on.

    Args:
        steps: None where the budget is in seconds.
    """
    remarks = []
    padding = StepSize.of(experiment, rows).padding
    if padding >= MUCH_PADDING:
        remarks.append(
            f"{padding:.0%} of the positions are padding: most documents are shorter than model_args.block_size "
            f"{experiment.model_args.block_size}; a smaller one trains on as many tokens in less time"
        )
    epochs = (steps or 0) * experiment.training.batch_size / rows.rows_per_epoch
    if epochs >= MANY_EPOCHS:
        remarks.append(
            f"the text is short: {rows.tokens_per_epoch:,} tokens to train on, which {steps:,} steps go over "
            f"{epochs:,.0f} times; the model may learn it by heart"
        )
    return remarks


def rows_with(rows: Rows, tokens: int) -> int:
    """The fewest rows, from the first one on, that have so many tokens."""
    begins = (tokens - 1) // rows.tokens_per_epoch * rows.rows_per_epoch
    epoch = range(begins, begins + rows.rows_per_epoch)
    return begins + bisect_left(epoch, tokens, key=rows.tokens_before)
