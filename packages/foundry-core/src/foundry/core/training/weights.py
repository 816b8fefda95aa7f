"""The weights of a training, and what moves them: the one place that knows whole tensors, by name.

A checkpoint, the judged weights and what is tried of a model before its training all come from here. What a rank holds
of each tensor may be a part (`foundry.core.tensors`): then every rank must ask, at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from foundry.core.model import GPT
from foundry.core.tensors import copy_into, saved_parts, whole
from foundry.core.training.optimization import MovingAverage, OptimizerSet


@dataclass
class Weights:
    """A model that is trained, its optimizer, and its moving average where there is one."""

    model: GPT
    optimizer: OptimizerSet
    ema: MovingAverage | None = None

    def of_model(self) -> dict[str, Tensor]:
        """Parameter or saved buffer -> all of it, as it is now. Of a model that is not cut they are its own."""
        return {name: whole(part) for name, part in saved_parts(self.model).items()}

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """All that a checkpoint holds of it: `model`, `optimizer`, `ema`."""
        averages = self.ema.weights if self.ema else {}
        return {
            "model": self.of_model(),
            "optimizer": self.optimizer.tensors(),
            "ema": {name: whole(part) for name, part in averages.items()},
        }

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], ema_updates: int) -> None:
        """Take over what `tensors` returned, but for the model, which is filled before it has an optimizer."""
        self.optimizer.load(tensors.get("optimizer", {}))
        if self.ema:
            self.ema.updates = ema_updates
            for name, average in tensors["ema"].items():
                copy_into(self.ema.weights[name], average)

    @contextmanager
    def judged(self) -> Iterator[GPT]:
        """The model with the weights that it is judged by: the moving average where the run keeps one."""
        if self.ema:
            self.ema.swap()
        try:
            yield self.model
        finally:
            if self.ema:
                self.ema.swap()
