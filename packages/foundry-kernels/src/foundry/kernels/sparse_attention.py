"""Causal attention in which a query sees only a part of the keys before it, in time and memory that follow that part.

    y_t = sum_u softmax_u(q_t k_u / sqrt(D)) v_u,   over the u <= t that t sees

The kernel in C (`foundry.kernels.attention`) knows these patterns. What it cannot do, other masks above all, is done
here with torch's own attention, chunk by chunk of the queries. Nothing of a chunk is kept for the backward pass, which
does each again: a third more products, and no more memory than the result and the gradients take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALLEST_CHUNK = 64  # queries: a call for fewer is mostly overhead
SMALLEST_CALL = 2**17  # scores, likewise
FEWEST_WINDOWS = 2
"""In a row: with fewer, one call under a mask is as fast. Chosen when nothing was done twice for the backward pass;
benchmarks/sparse_attention.py times eight."""


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

    def suits_chunks(self, length: int) -> bool:
        """Whether a row of so many tokens is done in chunks: by its shape alone, never by a stopwatch."""
        return length >= FEWEST_WINDOWS * max(SMALLEST_CHUNK, self.window)

    def chunks(self, length: int, device: torch.device) -> Iterator[Chunk]:
        """A row of so many tokens, half a window of queries at a time: two thirds of the keys of a window are seen by
        each of them."""
        size = max(SMALLEST_CHUNK, self.window // 2)
        for first in range(0, length, size):
            start = max(0, self.window_start(first))
            yield Chunk(first, min(first + size, length), start, self.columns_before(start, device))


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
        mask_of: what is seen; within the pattern. By default, the pattern. Without `weigh` it is that of all heads, and
            has no gradient.
        weigh: by default torch's attention, of which nothing is kept for the backward pass but q, k and v. Of this,
            which may draw numbers and have parameters, all that autograd asks for is kept.

    Returns:
        (B, H, T, D)
    """
    length, device = q.size(2), q.device
    if not pattern.suits_chunks(length):
        every = torch.arange(length, device=device)
        return (weigh or _attention)(q, k, v, (mask_of or _pattern_mask(pattern, q.dtype))(every, every))
    if weigh is None and not torch.compiler.is_compiling():  # a compiler chooses by itself what to keep
        return _AttentionInChunks.apply(*_as_under_autocast(q, k, v), pattern, mask_of)
    mask_of, weigh, pieces = mask_of or _pattern_mask(pattern, q.dtype), weigh or _attention, []
    for chunk in pattern.chunks(length, device):
        mask = mask_of(chunk.queries, chunk.keys)
        pieces.append(weigh(chunk.queries_of(q), chunk.keys_of(k), chunk.keys_of(v), mask))
    return torch.cat(pieces, dim=2)


class Chunk(NamedTuple):
    """Consecutive queries, and the keys that any of them sees: some columns, and all from `start` on."""

    first: int
    stop: int
    start: int
    columns: Tensor  # (keys,) int64, all before start

    @property
    def queries(self) -> Tensor:
        """Indices, (T,) int64."""
        return torch.arange(self.first, self.stop, device=self.columns.device)

    @property
    def keys(self) -> Tensor:
        """Indices, (S,) int64."""
        return torch.cat((self.columns, torch.arange(self.start, self.stop, device=self.columns.device)))

    def queries_of(self, x: Tensor) -> Tensor:
        """(B, H, length, D) -> (B, H, T, D), a view."""
        return x[:, :, self.first : self.stop]

    def keys_of(self, x: Tensor) -> Tensor:
        """(B, G, length, D) -> (B, G, S, D), a view where there are no columns."""
        near = x[:, :, self.start : self.stop]
        return torch.cat((x.index_select(2, self.columns), near), dim=2) if len(self.columns) else near

    def add_to_keys_of(self, x: Tensor, part: Tensor) -> None:
        """Add (B, G, S, D) where `keys_of` finds it."""
        far = len(self.columns)
        x[:, :, self.start : self.stop] += part[:, :, far:]
        if far:
            x.index_add_(2, self.columns, part[:, :, :far])


class _AttentionInChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, pattern, mask_of):
        ctx.save_for_backward(q, k, v)
        ctx.pattern, ctx.mask_of = pattern, mask_of
        mask_of = mask_of or _pattern_mask(pattern, q.dtype)
        # In memory (B, T, H, D), as the projection that follows reads it.
        y = q.new_empty(q.size(0), q.size(2), q.size(1), v.size(3)).transpose(1, 2)
        for chunk in pattern.chunks(q.size(2), q.device):
            mask = mask_of(chunk.queries, chunk.keys)
            for q_i, k_i, v_i, y_i in _some_heads(mask, q, k, v, y):
                chunk.queries_of(y_i).copy_(
                    _attention(chunk.queries_of(q_i), chunk.keys_of(k_i), chunk.keys_of(v_i), mask)
                )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        q, k, v = ctx.saved_tensors
        mask_of = ctx.mask_of or _pattern_mask(ctx.pattern, q.dtype)
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        # The last chunk sees most columns: it comes while least of of_q has been written, and so has memory.
        for chunk in reversed(list(ctx.pattern.chunks(q.size(2), q.device))):
            mask = mask_of(chunk.queries, chunk.keys)
            for heads in _some_heads(mask, q, k, v, gradient, of_q, of_k, of_v):
                _add_gradients(chunk, mask, *heads)
        return of_q, of_k, of_v, None, None


def _add_gradients(
    chunk: Chunk,
    mask: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gradient: Tensor,
    of_q: Tensor,
    of_k: Tensor,
    of_v: Tensor,
) -> None:
    """A function, so that nothing of a chunk is in memory beside the next."""
    gradient = chunk.queries_of(gradient)
    q, k, v = (x.detach().requires_grad_() for x in (chunk.queries_of(q), chunk.keys_of(k), chunk.keys_of(v)))
    with torch.enable_grad():
        y = _attention(q, k, v, mask)
    part_q, part_k, part_v = torch.autograd.grad(y, (q, k, v), gradient)
    chunk.queries_of(of_q).copy_(part_q)
    chunk.add_to_keys_of(of_k, part_k)
    chunk.add_to_keys_of(of_v, part_v)


def _some_heads(mask: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the tensors, q and k first, of a few heads at a time: on a CPU so few that each thread has one and that
    a call is worth its overhead, for the memory that a chunk takes follows their number."""
    q, k = tensors[:2]
    together = n_kv_head = k.size(1)
    if q.device.type == "cpu":
        scores = q.size(0) * q.size(1) // n_kv_head * mask.size(-2) * mask.size(-1)  # of one head of the keys
        together = max(torch.get_num_threads() // q.size(0), SMALLEST_CALL // max(scores, 1), 1)
    yield from zip(*(x.split(together * x.size(1) // n_kv_head, dim=1) for x in tensors), strict=True)


def _as_under_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In the dtype in which torch's attention would compute, which the backward pass does not know any more."""
    kind = tensors[0].device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(kind)) for x in tensors)


def _pattern_mask(pattern: SparsePattern, dtype: torch.dtype) -> Masks:
    """The pattern's mask, as a bias. Of a sliding window, nearly all chunks have the same, which is then made once."""

    def bias(queries: Tensor, keys: Tensor) -> Tensor:
        seen = pattern.sees(queries[:, None], keys)
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))

    made: dict[tuple[int, int], Tensor] = {}

    def remembered(queries: Tensor, keys: Tensor) -> Tensor:
        shape = len(queries), len(keys)
        if shape not in made:
            made[shape] = bias(queries, keys)
        return made[shape]

    return bias if pattern.stride else remembered


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.size(1) != k.size(1))
