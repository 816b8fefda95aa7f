"""How long to train: optimizer steps, tokens, FLOPs or seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Horizon:
    """Either a number of steps, known in advance, or seconds of training time."""

    steps: int | None
    seconds: float | None = None

    @classmethod
    def of(cls, training: Any, *, tokens_per_step: int, flops_per_token: float) -> Horizon:
        """The budget that the experiment states. Tokens and FLOPs round up to whole steps."""
        if training.seconds is not None:
            return cls(None, training.seconds)
        if training.tokens is not None:
            return cls(math.ceil(training.tokens / tokens_per_step))
        if training.flops is not None:
            return cls(max(1, math.ceil(training.flops / (tokens_per_step * flops_per_token))))
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
