"""Causal attention in which a query sees only a part of the keys before it, in time and memory that follow that part.

    y_t = sum_u softmax_u(q_t k_u / sqrt(D)) v_u,   over the u <= t that t sees

The kernel in C (`foundry.kernels.attention`) knows these patterns. What it cannot do, other masks above all, is done
here chunk by chunk of the queries: on a CPU in fp32 by hand, else with torch's own attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from foundry.kernels.attention_by_hand import AttentionByHand
from foundry.kernels.sparse_pattern import Chunk, Masks, SparsePattern

SMALLEST_CHUNK = 64  # queries, by torch's own: a call for fewer is mostly overhead
SMALLEST_CALL = 2**17  # scores, likewise

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
        weigh: by default plain attention, of which nothing is kept for the backward pass but q, k, v, and on a CPU in
            fp32 the result and (B, H, T) sums. Of this, which may draw numbers and have parameters, all that autograd
            asks for is kept.

    Returns:
        (B, H, T, D)
    """
    length, device, all_far = q.size(2), q.device, mask_of is None or not pattern.stride
    mask_of = mask_of or pattern.mask
    if not pattern.suits_chunks(length):
        every = torch.arange(length, device=device)
        return (weigh or _attention)(q, k, v, mask_of(every, every))
    if weigh is None and not torch.compiler.is_compiling():  # a compiler chooses by itself what to keep
        q, k, v = _as_under_autocast(q, k, v)
        if all_far and device.type == "cpu" and q.dtype in (torch.float32, torch.float64):
            return sparse_attention_by_hand(q, k, v, pattern, mask_of)
        return _AttentionInChunks.apply(q, k, v, pattern, mask_of)
    weigh, pieces = weigh or _attention, []
    for chunk in _half_windows(pattern, length):
        mask = mask_of(chunk.queries(device), chunk.keys(device))
        pieces.append(weigh(chunk.queries_of(q), chunk.keys_of(k), chunk.keys_of(v), mask))
    return torch.cat(pieces, dim=2)


def sparse_attention_by_hand(
    q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern, mask_of: Masks | None = None
) -> Tensor:
    """`sparse_attention` of tensors of fp32 or fp64 on a CPU, in products that are written out."""
    y: Tensor = AttentionByHand.apply(q, k, v, pattern, mask_of or pattern.mask)
    return y


def _half_windows(pattern: SparsePattern, length: int) -> Iterator[Chunk]:
    """Two thirds of the keys of a window are seen by each of so many queries."""
    return pattern.chunks(length, max(SMALLEST_CHUNK, pattern.window // 2))


class _AttentionInChunks(torch.autograd.Function):
    """By torch's own. Nothing of a chunk is kept for the backward pass, which does each again: a third more work."""

    @staticmethod
    def forward(ctx, q, k, v, pattern, mask_of):
        ctx.save_for_backward(q, k, v)
        ctx.pattern, ctx.mask_of = pattern, mask_of
        # In memory (B, T, H, D), as the projection that follows reads it.
        y = q.new_empty(q.size(0), q.size(2), q.size(1), v.size(3)).transpose(1, 2)
        for chunk in _half_windows(pattern, q.size(2)):
            mask = mask_of(chunk.queries(q.device), chunk.keys(q.device))
            for q_i, k_i, v_i, y_i in _some_heads(mask, q, k, v, y):
                chunk.queries_of(y_i).copy_(
                    _attention(chunk.queries_of(q_i), chunk.keys_of(k_i), chunk.keys_of(v_i), mask)
                )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        q, k, v = ctx.saved_tensors
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        # The last chunk sees most columns: it comes while least of of_q has been written, and so has memory.
        for chunk in reversed(list(_half_windows(ctx.pattern, q.size(2)))):
            mask = ctx.mask_of(chunk.queries(q.device), chunk.keys(q.device))
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
    for of_keys, part in ((of_k, part_k), (of_v, part_v)):
        chunk.near_of(of_keys).add_(part[:, :, chunk.n_far :])
        chunk.add_to_far_of(of_keys, part[:, :, : chunk.n_far])


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


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.size(1) != k.size(1))
