"""How far a computed number may be from the exact one, whatever the processor: a bound that no order of addition
exceeds, by the dtype, by how many products are added up, and by how large they are.

    |computed sum_i a_i b_i  -  sum_i a_i b_i|  <=  (n eps_sum + eps_stored) sum_i |a_i b_i|

holds for n products to first order in eps (Higham, 2002, Accuracy and Stability of Numerical Algorithms, 3.1), with and
without fused multiply-add, of which one machine has vectors of 4 numbers, another tiles of 16 x 16. Higham's unit of
rounding is eps / 2: the rest is room, such as for two computations that are compared with each other. bf16 and fp16 are
added up in fp32 by every kernel of torch and of ours, and rounded where a result is stored.

Bounds are computed, and fp64 tensors, whatever they are of.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

FUNCTION = 8
"""An exponential, a root, a quotient or a softmax is off by fewer eps than a sum of so many products."""

ROOM = 4
"""Standard deviations, of twice the size: eps is two units of rounding."""

UNDERFLOW = 2 * torch.finfo(torch.float32).tiny
"""Where numbers of fp32 and bf16 end: a weight below it may come to 0, or stay there."""


def rounding(dtype: torch.dtype, *lengths: float) -> float:
    """The relative error of sums of `lengths` products, one after the other, each of which is stored as `dtype`."""
    in_sums = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    stored = 0.0 if dtype.itemsize >= 4 else torch.finfo(dtype).eps
    return sum(length * in_sums + stored for length in lengths)


def of_product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """The bound on each number of a @ b, (..., M, K) @ (..., K, N) -> (..., M, N)."""
    return rounding(dtype, a.size(-1) + 1) * (a.double().abs() @ b.double().abs())


def of_chain(result: Tensor, dtype: torch.dtype, *lengths: float) -> float:
    """The bound on each number of what sums of so many products made one after the other, by the largest of them.

    Errors of random sign add up as their squares do (Higham and Mary, 2019, doi:10.1137/18M1226312), and so do products
    of random sign: relative to its result, a sum of n of them is off by the root of n times eps. The sure bound would
    be so large that it found no fault.
    """
    in_sums = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    stored = rounding(dtype, 0)
    largest: float = result.detach().abs().max().item()
    return ROOM * math.sqrt(sum(length * in_sums**2 + stored**2 for length in lengths)) * largest


class OfAttention(NamedTuple):
    """Bounds on attention and its gradients, each of the shape of what it is of."""

    y: Tensor
    q: Tensor
    k: Tensor
    v: Tensor


def of_attention(q: Tensor, k: Tensor, v: Tensor, upstream: Tensor, mask: Tensor) -> OfAttention:
    """Of y = softmax(q k^T / sqrt(D) where `mask`) v and of what `upstream` makes of it, by the dtype of q.

    Where scores are large, their own rounding is most of it: of two scores of 10^5, fp32 knows the difference to 0.01.
    And what is exactly 0, such as the gradient of the query of a token that sees itself alone, is the difference of two
    numbers that were rounded: the bound knows how large those were.

    Args:
        q, upstream: (B, H, T, D).
        k, v: (B, G, S, D); each of their heads serves H / G consecutive heads of q.
        mask: (..., T, S) bool, True = seen.
    """
    dtype, shared_by = q.dtype, q.size(1) // k.size(1)
    q, upstream = q.double(), upstream.double()
    k, v = (x.double().repeat_interleave(shared_by, 1) for x in (k, v))
    size, n_keys, scale = q.size(-1), k.size(-2), 1 / math.sqrt(q.size(-1))
    of_sum_over_keys, of_sum_over_queries = rounding(dtype, n_keys), rounding(dtype, q.size(-2))

    def larger(a: Tensor, b: Tensor) -> Tensor:
        return a.abs() @ b.abs()

    # Scores are never stored in less than fp32, and are rounded once more when the largest of the row is taken off.
    scores = (q @ k.mT * scale).masked_fill(~mask, -torch.inf)
    sizes = (larger(q, k.mT) * scale).masked_fill(~mask, 0.0)
    in_scores = rounding(torch.promote_types(dtype, torch.float32), size + FUNCTION) * (sizes + sizes.amax(-1, True))
    weights = scores.softmax(-1)
    in_exponent = in_scores + (weights * in_scores).sum(-1, keepdim=True)
    in_weights = weights * (in_exponent.expm1() + rounding(dtype, n_keys + FUNCTION)) + UNDERFLOW
    y = weights @ v
    in_y = in_weights @ v.abs() + of_sum_over_keys * (weights @ v.abs())

    of_weights, mean = upstream @ v.mT, (upstream * y).sum(-1, keepdim=True)
    in_of_weights = rounding(dtype, size) * larger(upstream, v.mT)
    in_mean = rounding(dtype, size) * (upstream * y).abs().sum(-1, keepdim=True) + (upstream.abs() * in_y).sum(-1, True)
    of_scores = weights * (of_weights - mean) * scale
    in_differences = in_of_weights + in_mean
    in_of_scores = (weights + in_weights) * in_differences + in_weights * (of_weights - mean).abs()
    in_of_scores = in_of_scores * scale + rounding(dtype, FUNCTION) * of_scores.abs()

    def of_keys(x: Tensor) -> Tensor:
        """The sum over the heads of q that share one of k."""
        return x.unflatten(1, (-1, shared_by)).sum(2)

    return OfAttention(
        in_y,
        in_of_scores @ k.abs() + of_sum_over_keys * larger(of_scores, k),
        of_keys(in_of_scores.mT @ q.abs() + shared_by * of_sum_over_queries * larger(of_scores.mT, q)),
        of_keys(in_weights.mT @ upstream.abs() + shared_by * of_sum_over_queries * larger(weights.mT, upstream)),
    )


def excess(computed: Tensor, exact: Tensor, bound: Tensor | float) -> float:
    """The largest difference, as a multiple of what the bound allows there: at most 1, if nothing but rounding is
    between them. Infinite where one of them is not finite and the other is, or something else."""
    difference = (computed.double() - exact.double()).abs()
    difference = torch.where(computed.double() == exact.double(), 0.0, difference)  # infinities too
    ratio = difference / torch.as_tensor(bound, dtype=torch.float64, device=difference.device)
    ratio = torch.where(difference == 0, 0.0, ratio).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return ratio.max().item() if ratio.numel() else 0.0
