"""A dense feed-forward network on few rows, by one kernel (`foundry.kernels.whole_layers.FeedForward`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from torch import Tensor

from foundry.core.contracts import Aux, Context
from foundry.kernels.whole_layers import FeedForward

if TYPE_CHECKING:
    from foundry.modules.ffn.dense import Dense


class DecodingStep:
    """Called as the layer is, which computes what the kernel does not: many rows, a mixture inside the layer."""

    def __init__(self, layer: Dense, kernel: FeedForward) -> None:
        self._layer, self._kernel = layer, kernel

    @classmethod
    def of(cls, layer: Dense) -> Self | None:
        """None where the kernel knows no such layer."""
        kernel = FeedForward.of(layer.gate_proj, layer.up_proj, layer.activation, layer.down_proj)
        return None if kernel is None else cls(layer, kernel)

    def __call__(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        y = self._kernel(x) if ctx.mix is None else None
        return self._layer(x, ctx) if y is None else (y, {})
