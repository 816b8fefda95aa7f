"""What modules do to themselves once per optimizer step, beside what the optimizer does to their parameters: router
biases, running statistics.

A forward pass changes nothing: it may be done again (gradient checkpointing, out of memory) or be an evaluation's. It
reports counts; the modules get their sum over micro-batches and ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from foundry.core.training.distributed import World


class AfterStep:
    """Those modules of a model that define `after_step`."""

    def __init__(self, model: nn.Module, world: World) -> None:
        self.modules: list[Any] = [module for module in model.modules() if hasattr(module, "after_step")]
        self.world = world

    def run(self, counts: Mapping[str, Tensor]) -> None:
        """The step is done: let each module have the sums of what every rank has counted."""
        if self.modules:
            sums = self.world.sum_tensors(dict(counts))
            for module in self.modules:
                module.after_step(sums)
