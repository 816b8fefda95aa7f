"""What modules do to themselves once per optimizer step, beside what the optimizer does to their parameters: router
biases, running statistics.

A forward pass changes nothing: it may be done again (gradient checkpointing, out of memory) or be an evaluation's. It
reports counts, which come here once for every micro-batch; the modules get their sum over micro-batches and ranks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from foundry.core.contracts import Aux
from foundry.core.training.distributed import World


class AfterStep:
    """Those modules of a model that define `after_step`, and the counts of the step that is under way."""

    def __init__(self, model: nn.Module, world: World) -> None:
        self.modules: list[Any] = [module for module in model.modules() if hasattr(module, "after_step")]
        self.world = world
        self.counts: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Forget what was counted: a step begins, or begins again."""
        self.counts = {}

    def add(self, aux: Aux) -> None:
        """Take over what one micro-batch has counted."""
        if self.modules:
            counted = {name: value.detach() for name, value in aux.items() if name.endswith("_count")}
            self.counts |= {name: value + self.counts.get(name, 0) for name, value in counted.items()}

    def run(self) -> None:
        """The step is done: let each module have the sums."""
        if self.modules:
            sums = self.world.sum_tensors(self.counts)
            for module in self.modules:
                module.after_step(sums)
