"""The settings of what this plugin adds."""

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from foundry.core.contracts import ActivationParams, Dims, TaskParams


class XIELUParams(ActivationParams):
    beta: float = Field(0.5, gt=0, description="slope at 0")
    alpha: float = Field(0.8, gt=0, description="curvature on both sides at the start of training; above beta")

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if self.alpha <= self.beta:
            yield "alpha", f"{self.alpha} must be above beta, {self.beta}: the lower curvature is beta + softplus(...)"


class RepeatParams(TaskParams):
    metrics: ClassVar[tuple[str, ...]] = ("bits_saved", "accuracy")

    words: int = Field(40, ge=1, description="how many are asked for")
    times: int = Field(2, ge=1, description="how often the context has the word already")
