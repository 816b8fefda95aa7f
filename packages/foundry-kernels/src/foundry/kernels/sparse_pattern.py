"""Which of the keys before it a query sees, and how a row divides into chunks of queries that see nearly the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

SHORTEST_ROW = 256  # tokens, and
FEWEST_WINDOWS = 2
"""in a row that is done in chunks. With less, one call under a mask is as fast:
`benchmarks/sparse_attention.py --kinds torch --lengths 128 256 512 1024 --windows 2`."""

Masks = Callable[[Tensor, Tensor], Tensor]
"""Indices of queries (T,) and of keys (S,) -> a mask that broadcasts to (B, H, T, S): bool, or a bias to be added."""

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

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Numbers of tokens, (T,) and (S,) -> (T, S) bool."""
        return self.sees(queries[:, None], keys)

    def sees_all(self, length: int) -> bool:
        """Whether every query of a row of so many tokens sees all before it."""
        return self.window >= length or self.stride == 1

    def window_start(self, query: Number) -> Number:
        """The first key of a query's window; below 0 where that is not full yet."""
        return (query // self.block + 1) * self.block - self.window

    @property
    def is_window(self) -> bool:
        """Whether it is a sliding window: what is seen depends on the distance alone."""
        return self.block == 1 and not self.stride

    def suits_chunks(self, length: int) -> bool:
        """Whether a row of so many tokens is done in chunks: by its shape alone, never by a stopwatch."""
        return length >= max(SHORTEST_ROW, FEWEST_WINDOWS * self.window)

    def chunks(self, length: int, queries: int) -> Iterator[Chunk]:
        """A row of so many tokens, so many queries at a time: of the keys of a window, window / (window + queries) are
        seen by each of them."""
        period = self.block * max(1, self.stride)
        for first in range(0, length, queries):
            start = max(0, self.window_start(first))
            columns = start // period if self.stride else 0
            yield Chunk(first, min(first + queries, length), start, columns, self.block, period)


class Chunk(NamedTuple):
    """Consecutive queries, and the keys that any of them sees: the columns before `start`, and all from there on."""

    first: int
    stop: int
    start: int
    columns: int  # how many
    block: int  # tokens of a column
    period: int  # tokens from one column to the next

    @property
    def n_queries(self) -> int:
        return self.stop - self.first

    @property
    def n_far(self) -> int:
        """Keys in columns."""
        return self.columns * self.block

    @property
    def n_keys(self) -> int:
        return self.n_far + self.stop - self.start

    def queries(self, device: torch.device) -> Tensor:
        """Indices, (T,) int64."""
        return torch.arange(self.first, self.stop, device=device)

    def keys(self, device: torch.device) -> Tensor:
        """Indices, (S,) int64."""
        return self.keys_of(torch.arange(self.stop, device=device)[:, None]).flatten()

    def near(self, device: torch.device) -> Tensor:
        """Indices of the keys from `start` on, (stop - start,) int64."""
        return torch.arange(self.start, self.stop, device=device)

    def queries_of(self, x: Tensor) -> Tensor:
        """(..., length, D) -> (..., T, D), a view."""
        return x[..., self.first : self.stop, :]

    def near_of(self, x: Tensor) -> Tensor:
        """(..., length, D) -> (..., stop - start, D), a view."""
        return x[..., self.start : self.stop, :]

    def far_of(self, x: Tensor) -> Tensor:
        """(..., length, D) -> (..., columns, block, D), a view."""
        periods = x[..., : self.columns * self.period, :].unflatten(-2, (self.columns, self.period))
        return periods[..., self.period - self.block :, :]

    def keys_of(self, x: Tensor) -> Tensor:
        """(..., length, D) -> (..., S, D), a view where there are no columns."""
        near = self.near_of(x)
        return torch.cat((self.far_of(x).flatten(-3, -2), near), dim=-2) if self.columns else near

    def add_to_far_of(self, x: Tensor, part: Tensor) -> None:
        """Add (..., n_far, D) where `far_of` finds it."""
        self.far_of(x).add_(part.unflatten(-2, (self.columns, self.block)))
