"""Canon layers (Allen-Zhu, 2025, Physics of Language Models 4.1, https://ssrn.com/abstract=5240330).

    y_t = x_t + sum_j w_j * x_(t - j),   j = 0 .. K - 1          x, y (B, T, n), w_j (n,)

a causal depthwise convolution with a residual: a, before attention, on what it reads; b, inside it, on queries, keys
and values; c, before the feed-forward network; d, inside it, on what enters the activation. Nothing is mixed across the
documents of a packed row, and padding does not separate tokens.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Cache, Context, Dims, Sublayer
from foundry.modules.canon import ConvParams
from foundry.modules.canon.cache import CanonCache


class ConvCanon(nn.Module):
    def __init__(self, params: ConvParams, dims: Dims, sizes: Mapping[Sublayer, int]) -> None:
        super().__init__()
        size_at = {"a": dims.n_embd, "b": sizes["attention"], "c": dims.n_embd, "d": sizes["ffn"]}
        self.convs = nn.ModuleDict({point: ShortConv(size_at[point], params.kernel) for point in params.points})

    def enter(self, sublayer: Sublayer, x: Tensor, ctx: Context) -> tuple[Tensor, Context]:
        before, inside = "ab" if sublayer == "attention" else "cd"
        cache: CanonCache | None = ctx.cache
        history = {} if cache is None else cache.history
        if before in self.convs:
            x = self.convs[before](x, ctx, history.get(before))
        own = ctx._replace(cache=None if cache is None else cache.attention)
        if inside in self.convs:
            own = own._replace(mix=partial(self.convs[inside], ctx=ctx, history=history.get(inside)))
        return x, own

    def init_cache(self, attention: Cache, batch: int, dtype: torch.dtype, device: torch.device | str) -> CanonCache:
        convs = {point: conv for point, conv in self.convs.items() if isinstance(conv, ShortConv)}
        history = {
            point: torch.zeros(batch, conv.kernel - 1, conv.size, dtype=dtype, device=device)
            for point, conv in convs.items()
        }
        return CanonCache(attention, history)


class ShortConv(nn.Module):
    """`weight` (n, 1, K) is that of an nn.Conv1d with groups = n, the current token's last."""

    roles: ClassVar = {"weight": "kernel"}

    def __init__(self, size: int, kernel: int) -> None:
        super().__init__()
        self.size, self.kernel = size, kernel
        self.weight = nn.Parameter(torch.empty(size, 1, kernel))

    def forward(self, x: Tensor, ctx: Context, history: Tensor | None) -> Tensor:
        """x (B, T, n) -> the same. `history` (B, K - 1, n) is what came before, and is moved on in place."""
        (batch, length, size), past = x.shape, self.kernel - 1
        order = None if ctx.key_padding is None else _tokens_first(ctx.key_padding[:, -length:])
        new = x if order is None else x.gather(1, order[..., None].expand_as(x))
        before = x.new_zeros(batch, past, size) if history is None else history.to(x.dtype)
        inputs = torch.cat((before, new), dim=1)
        weight = self.weight.to(x.dtype)[:, 0].T  # (K, n)
        mixed = inputs[:, past:] * weight[past]
        for back in range(1, past + 1):
            earlier = inputs[:, past - back : past - back + length]
            if ctx.segments is not None:
                earlier = earlier.masked_fill(_other_segment(ctx.segments, order, back)[..., None], 0.0)
            mixed = torch.addcmul(mixed, earlier, weight[past - back])
        if history is not None:
            _move_on(history, inputs, ctx.key_padding, length)
        if order is not None:
            mixed = torch.empty_like(mixed).scatter(1, order[..., None].expand_as(mixed), mixed)
        return x + mixed

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        bound = 1 / math.sqrt(self.kernel)  # torch's for an nn.Conv1d with one input channel per group
        tensor.uniform_(-bound, bound, generator=generator)
        return True


def _tokens_first(real: Tensor) -> Tensor:
    """real (B, T) bool -> the order (B, T) in which tokens are neighbours: padding comes last."""
    return real.logical_not().int().argsort(dim=1, stable=True)


def _other_segment(segments: Tensor, order: Tensor | None, back: int) -> Tensor:
    """(B, T) bool: is the token `back` places before in another document, or none."""
    numbers = segments if order is None else segments.gather(1, order)
    return F.pad(numbers[:, back:] != numbers[:, :-back], (min(back, numbers.size(1)), 0), value=True)


def _move_on(history: Tensor, inputs: Tensor, key_padding: Tensor | None, length: int) -> None:
    """Keep the last K - 1 tokens of `inputs` (B, K - 1 + T, n), in which padding comes last."""
    past = history.size(1)
    if key_padding is None:
        history.copy_(inputs[:, length:])
        return
    n_real = key_padding[:, -length:].sum(dim=1, keepdim=True)
    last = n_real + torch.arange(past, device=inputs.device)
    history.copy_(inputs.gather(1, last[..., None].expand(-1, -1, inputs.size(2))))
