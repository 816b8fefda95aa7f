"""What a model computes with while it writes a text, planned once, layer by layer, before the first token.

    plan = plan_decoding(model)
    with plan:                       # products and norms of few rows, in this thread
        y, aux = plan.of(layer)(x, ctx)

A layer says in its class that something else may compute it:

    decoding_step(self) -> Callable | None      called as the layer is; None: the layer as it is has no such kernel

What is looked at is looked at here, once: the layer's class, shapes and types of weights, who hooks into it. A step
looks only at what differs from token to token, and calls the layer itself where that is not what the kernel is for. So
a change of a model's layers, or a hook into them, while a text is written, counts from the next one on.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from foundry.kernels import few_rows
from foundry.kernels.calls import is_called_plainly, stated

Step = Callable[..., Any]
"""Called as the layer that it computes: (x, ctx) -> (y, aux)."""


def plan_decoding(model: nn.Module) -> "Plan":
    """A plan for one text, or one batch of texts, of `model` as it is now."""
    steps = {}
    for layer in model.modules():
        begin = stated(layer, "decoding_step")
        if begin is not None and is_called_plainly(layer) and (step := begin()) is not None:
            steps[layer] = step
    return Plan(steps)


class Plan:
    """A context, to be entered as often as one likes, in which few rows are computed by the kernels of decoding, in
    this thread alone; and what computes each layer."""

    def __init__(self, steps: Mapping[nn.Module, Step]) -> None:
        self.steps = steps
        self._used = few_rows.Used()

    def of(self, layer: nn.Module) -> Step:
        """What computes `layer`: a step, or the layer itself."""
        return self.steps.get(layer, layer)

    def __enter__(self) -> None:
        self._used.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._used.__exit__(*exception)
