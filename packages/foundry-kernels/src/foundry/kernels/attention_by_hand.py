"""Attention chunk by chunk of the queries, written out in products whose results are written where they belong.

    P = 2^(log2(e) (q k^T / sqrt(D) + bias) - L)    y = P v    L: the binary logarithm of a row's sum, which is kept
    dS = P * (g v^T - (g . y))    dq = dS k / sqrt(D)    dk = dS^T q / sqrt(D)    dv = P^T g

as in FlashAttention (arXiv:2205.14135), with powers of 2 because torch's `exp2` takes a fifth of the time of its `exp`.
Torch's own attention makes a new tensor of each result of a chunk, to be copied or added to where it belongs: that is
more than its attention over everything takes beside its results, 1.6 MiB for 8 heads of 64 in fp32 on one thread. Here
it is two matrices of scores, of as few heads as are worth a call, which stay in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from foundry.kernels.sparse_pattern import Chunk, Masks, SparsePattern

LOG2_E = math.log2(math.e)
QUERIES = 64  # in a chunk
SCORES = 2**15  # in a call, of each of the two matrices: 128 KiB in fp32. A call for fewer is mostly overhead
SCORES_OF_A_THREAD = 50_000  # at most, beyond one head: about what torch's own attention over everything takes for each

Index = tuple[int, slice]
"""Of a row of the batch, and of some of its heads."""


class AttentionByHand(torch.autograd.Function):
    """`apply(q, k, v, pattern, mask_of)`, as `sparse_attention`, on a CPU, in fp32 or fp64 as it is given. `mask_of` is
    asked for what is near alone: the keys in columns before it are seen by every query of a chunk."""

    @staticmethod
    def forward(ctx, q, k, v, pattern: SparsePattern, mask_of: Masks):
        # In memory (B, T, H, D), as the projection that follows reads it.
        y = q.new_empty(q.size(0), q.size(2), q.size(1), v.size(3)).transpose(1, 2)
        log_sums = q.new_empty(*q.shape[:3], 1)
        chunks = list(pattern.chunks(q.size(2), QUERIES))
        together, (scratch,) = _scratch(1, q, k, chunks)
        for chunk in reversed(chunks):  # the one with most keys first: what the next ones need fits where it was
            bias = _bias(mask_of(chunk.queries(q.device), chunk.near(q.device)), q)
            for of_queries, of_keys in _calls(q, k, together):
                of_chunk = (chunk.queries_of(x[of_queries]) for x in (q, y, log_sums))
                _attend(chunk, bias[of_queries], scratch, k[of_keys], v[of_keys], *of_chunk)
        ctx.save_for_backward(q, k, v, y, log_sums)
        ctx.pattern, ctx.mask_of = pattern, mask_of
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        q, k, v, y, log_sums = ctx.saved_tensors
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        chunks = list(ctx.pattern.chunks(q.size(2), QUERIES))
        together, scratch = _scratch(2, q, k, chunks)
        for chunk in reversed(chunks):
            bias = _bias(ctx.mask_of(chunk.queries(q.device), chunk.near(q.device)), q)
            for of_queries, of_keys in _calls(q, k, together):
                of_chunk = (chunk.queries_of(x[of_queries]) for x in (q, y, log_sums, gradient, of_q))
                _add_gradients(chunk, bias[of_queries], scratch, *(x[of_keys] for x in (k, v, of_k, of_v)), *of_chunk)
        return of_q, of_k, of_v, None, None


def _scratch(matrices: int, q: Tensor, k: Tensor, chunks: list[Chunk]) -> tuple[int, Tensor]:
    """How many heads a call has, and room for so many matrices of scores of each, (matrices, scores)."""
    largest = max(chunk.n_queries * chunk.n_keys for chunk in chunks)
    threads = torch.get_num_threads()
    together = min(k.size(1), max(min(threads, threads * SCORES_OF_A_THREAD // largest), SCORES // largest, 1))
    return together, q.new_empty(matrices, together * largest)


def _calls(q: Tensor, k: Tensor, together: int) -> Iterator[tuple[Index, Index]]:
    """Some heads at a time: where in q they are, and in k. No two of them share keys: so many heads are as many
    matrices for q as for k."""
    shared_by = q.size(1) // k.size(1)
    for row in range(q.size(0)):
        for first in range(0, k.size(1), together):
            stop = min(first + together, k.size(1))
            for head in range(first * shared_by, (first + 1) * shared_by):
                yield (row, slice(head, stop * shared_by, shared_by)), (row, slice(first, stop))


def _bias(mask: Tensor, q: Tensor) -> Tensor:
    """For exponents of 2, (B, H, T, near)."""
    bias = q.new_zeros(mask.shape).masked_fill_(~mask, float("-inf")) if mask.dtype == torch.bool else mask * LOG2_E
    return bias.expand(*q.shape[:2], -1, -1)


def _of_heads(matrix: Tensor, chunk: Chunk, q: Tensor) -> Tensor:
    """Room for scores, (H, T, S)."""
    shape = q.size(0), chunk.n_queries, chunk.n_keys
    return matrix[: math.prod(shape)].view(shape)


def _attend(
    chunk: Chunk, bias: Tensor, scratch: Tensor, k: Tensor, v: Tensor, q: Tensor, y: Tensor, log_sums: Tensor
) -> None:
    """Fill in y (H, T, D) and log_sums (H, T, 1) of a chunk, from its q (H, T, D) and k, v (H, length, D)."""
    scale, far = LOG2_E / math.sqrt(q.size(-1)), chunk.n_far
    weights = _of_heads(scratch, chunk, q)
    if far:
        weights[..., :far].baddbmm_(q, chunk.far_of(k).flatten(1, 2).mT, beta=0, alpha=scale)
    weights[..., far:].copy_(bias).baddbmm_(q, chunk.near_of(k).mT, alpha=scale)
    largest = weights.amax(-1, keepdim=True)
    sums = weights.sub_(largest).exp2_().sum(-1, keepdim=True)
    torch.bmm(weights[..., far:], chunk.near_of(v), out=y)
    if far:
        y.baddbmm_(weights[..., :far], chunk.far_of(v).flatten(1, 2))
    y.div_(sums)
    torch.add(largest, sums.log2_(), out=log_sums)


def _add_gradients(
    chunk: Chunk,
    bias: Tensor,
    scratch: Tensor,
    k: Tensor,
    v: Tensor,
    of_k: Tensor,
    of_v: Tensor,
    q: Tensor,
    y: Tensor,
    log_sums: Tensor,
    gradient: Tensor,
    of_q: Tensor,
) -> None:
    """Fill in of_q (H, T, D) of a chunk, and add to of_k and of_v (H, length, D) what its queries make of them."""
    scale, far = 1 / math.sqrt(q.size(-1)), chunk.n_far
    weights, of_scores = (_of_heads(matrix, chunk, q) for matrix in scratch)
    torch.sub(bias, log_sums, out=weights[..., far:])
    of_scores.copy_((gradient * y).sum(-1, keepdim=True).neg_())
    if far:
        weights[..., :far].copy_(-log_sums).baddbmm_(q, chunk.far_of(k).flatten(1, 2).mT, alpha=LOG2_E * scale)
        of_scores[..., :far].baddbmm_(gradient, chunk.far_of(v).flatten(1, 2).mT)
    weights[..., far:].baddbmm_(q, chunk.near_of(k).mT, alpha=LOG2_E * scale)
    of_scores[..., far:].baddbmm_(gradient, chunk.near_of(v).mT)
    weights.exp2_()
    chunk.near_of(of_v).baddbmm_(weights[..., far:].mT, gradient)
    of_scores.mul_(weights)
    chunk.near_of(of_k).baddbmm_(of_scores[..., far:].mT, q, alpha=scale)
    of_q.baddbmm_(of_scores[..., far:], chunk.near_of(k), beta=0, alpha=scale)
    if far:
        chunk.add_to_far_of(of_v, torch.bmm(weights[..., :far].mT, gradient))
        chunk.add_to_far_of(of_k, torch.bmm(of_scores[..., :far].mT, q).mul_(scale))
        of_q.baddbmm_(of_scores[..., :far], chunk.far_of(k).flatten(1, 2), alpha=scale)
