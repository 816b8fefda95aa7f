"""A layer of multi-head attention for the token after a cache, by one kernel, where nothing but norms, value embeddings
and position rope comes between its projections (`foundry.kernels.whole_layers.AttentionStep`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from torch import Tensor

from foundry.core.contracts import Aux, Context
from foundry.kernels.calls import is_called_plainly, stated
from foundry.kernels.whole_layers import AttentionStep, HeadNorms
from foundry.modules.attention.cache import KVCache
from foundry.modules.norm.rmsnorm import RMSNorm

if TYPE_CHECKING:
    import torch

    from foundry.modules.attention.mha import MultiHeadAttention

    Waves = Callable[[Tensor, torch.dtype], tuple[Tensor, Tensor]]
    """As `RoPE.waves_of`."""


class DecodingStep:
    """Called as the layer is, which computes what the kernel does not: whole rows, documents, a cache of another kind.

    Args:
        waves_of: None: nothing is rotated.
    """

    def __init__(self, layer: MultiHeadAttention, kernel: AttentionStep, waves_of: Waves | None) -> None:
        self._layer, self._kernel, self._waves_of = layer, kernel, waves_of

    @classmethod
    def of(cls, layer: MultiHeadAttention) -> Self | None:
        """None where the kernel knows no such layer."""
        waves_of = stated(layer.position, "waves_of")
        if layer.rotate is not None and waves_of is None:
            return None
        if not all(each is None for each in (layer.softcap, layer.sinks, layer.pattern, layer.score_bias)):
            return None
        norms = None
        if layer.q_norm is not None and layer.k_norm is not None:
            if not all(type(norm) is RMSNorm and is_called_plainly(norm) for norm in (layer.q_norm, layer.k_norm)):
                return None
            norms = HeadNorms(layer.q_norm.weight, layer.k_norm.weight, layer.q_norm.eps)
        kernel = AttentionStep.of(
            layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj,
            n_head=layer.n_head, factor=layer.score_multiplier / math.sqrt(layer.head_dim), norms=norms,
        )  # fmt: skip
        return None if kernel is None else cls(layer, kernel, waves_of)

    def __call__(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        y = self._by_kernel(x, ctx)
        return self._layer(x, ctx) if y is None else (y, {})

    def _by_kernel(self, x: Tensor, ctx: Context) -> Tensor | None:
        cache, waves = ctx.cache, None
        if type(cache) is not KVCache or ctx.segments is not None or ctx.mix is not None or self._layer.training:
            return None
        if self._waves_of is not None:
            if ctx.positions is None or x.shape[1] != 1:
                return None
            waves = self._waves_of(ctx.positions, x.dtype)
        keys, values = cache.tensors
        y = self._kernel(x, keys, values, cache.length, value=ctx.value, waves=waves, real=ctx.key_padding)
        if y is not None:
            cache.length += 1
        return y
