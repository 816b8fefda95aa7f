"""Causal attention in which a query sees only a part of the keys before it, in time and memory that follow that part.

    y_t = sum_u softmax_u(q_t k_u / sqrt(D)) v_u,   over the u <= t that t sees

The kernel in C (`foundry.kernels.attention`) knows these patterns. What it cannot do, other masks above all, is done
here with torch's own attention, chunk by chunk of the queries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_CHUNK = 64  # queries: a call for fewer is mostly overhead
FEWEST_CHUNKS = 2
"""Two took 0.7 to 1.0 of the time of one call under a mask, forward and backward; four, of windows of a quarter of the
row, also less than full causal attention (T of 256 to 2048, torch's kernels on a CPU)."""


Number = TypeVar("Number", int, Tensor)


class SparsePattern(NamedTuple):
    """Which keys u <= t a query t sees: those of its window, which is counted back from the end of the query's block,
    and those of the columns, which are every `stride`-th block.

        u >= (t // block + 1) * block - window    or    (u // block + 1) % stride == 0

    With block 1 and stride 0 it is a sliding window: the query itself and the window - 1 keys before it.
    """

    window: int  # tokens, a multiple of block
    block: int = 1  # tokens
    stride: int = 0  # blocks; 0: there are no columns

    def sees(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Numbers of tokens in their document, broadcasting against each other -> bool."""
        seen = keys >= self.window_start(queries)
        if self.stride:
            seen = seen | ((keys // self.block + 1) % self.stride == 0)
        return seen & (keys <= queries)

    def sees_all(self, length: int) -> bool:
        """Whether every query of a row of so many tokens sees all before it."""
        return self.window >= length or self.stride == 1

    def window_start(self, query: Number) -> Number:
        """The first key of a query's window; below 0 where that is not full yet."""
        return (query // self.block + 1) * self.block - self.window

    def columns_before(self, key: int, device: torch.device) -> Tensor:
        """The keys in those columns that end before `key`, (keys,) int64."""
        count = max(0, key) // self.block // self.stride if self.stride else 0
        columns = torch.arange(1, count + 1, device=device) * self.stride - 1
        return (columns[:, None] * self.block + torch.arange(self.block, device=device)).flatten()

    @property
    def is_window(self) -> bool:
        """Whether it is a sliding window: what is seen depends on the distance alone."""
        return self.block == 1 and not self.stride

    @property
    def chunk(self) -> int:
        """How many queries are done together: so many that half of the keys which they see are seen by each."""
        return max(SMALLEST_CHUNK, self.window)

    def suits_chunks(self, length: int) -> bool:
        """Whether a row of so many tokens is done in chunks: by its shape alone, never by a stopwatch."""
        return length >= FEWEST_CHUNKS * self.chunk


Masks = Callable[[Tensor, Tensor], Tensor]
"""Indices of queries (T,) and of keys (S,) -> a mask that broadcasts to (B, H, T, S): bool, or a bias to be added."""

Weigh = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""q (B, H, T, D), k, v (B, G, S, D), mask -> (B, H, T, D)."""


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern, mask_of: Masks | None = None, weigh: Weigh | None = None
) -> Tensor:
    """Attention over whole rows that computes only what `pattern` sees, chunk by chunk of the queries, where that pays
    (`SparsePattern.suits_chunks`), and everything under a mask where it does not.

    Args:
        q: (B, H, T, D).
        k, v: (B, G, T, D); each of their heads serves H / G consecutive query heads.
        mask_of: what is seen; within the pattern. By default, the pattern.
        weigh: by default torch's attention.

    Returns:
        (B, H, T, D)
    """
    length, device = q.size(2), q.device
    mask_of, weigh = mask_of or _Remembered(pattern, q.dtype), weigh or _attention
    if not pattern.suits_chunks(length):
        every = torch.arange(length, device=device)
        return weigh(q, k, v, mask_of(every, every))
    pieces = []
    for first in range(0, length, pattern.chunk):
        stop = min(first + pattern.chunk, length)
        start = max(0, pattern.window_start(first))
        columns = pattern.columns_before(start, device)
        keys, values = k[:, :, start:stop], v[:, :, start:stop]
        if len(columns):
            keys = torch.cat((k.index_select(2, columns), keys), dim=2)
            values = torch.cat((v.index_select(2, columns), values), dim=2)
        queries, seen = torch.arange(first, stop, device=device), torch.arange(start, stop, device=device)
        pieces.append(weigh(q[:, :, first:stop], keys, values, mask_of(queries, torch.cat((columns, seen)))))
    return torch.cat(pieces, dim=2)


class _Remembered:
    """The pattern's mask, as a bias. Of a sliding window, all chunks but the first and the last have the same, which is
    then held once for the backward pass."""

    def __init__(self, pattern: SparsePattern, dtype: torch.dtype) -> None:
        self.pattern, self.dtype = pattern, dtype
        self.made: dict[tuple[int, int], Tensor] = {}

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        shape = len(queries), len(keys)
        if self.pattern.stride or shape not in self.made:
            seen = self.pattern.sees(queries[:, None], keys)
            hidden = torch.zeros(shape, dtype=self.dtype, device=seen.device).masked_fill(~seen, float("-inf"))
            self.made[shape] = hidden
        return self.made[shape]


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.size(1) != k.size(1))
