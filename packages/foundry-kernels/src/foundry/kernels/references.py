"""What the operators of `foundry.kernels.table` compute, by torch's own and in any precision: what each kernel is held
against. Arguments are those of the kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from foundry.kernels.sparse_pattern import SparsePattern


def causal_attention(q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern | None = None) -> Tensor:
    """q (B, H, T, D), k, v (B, G, T, D) -> (B, H, T, D). All T x T scores are held."""
    every = torch.arange(q.size(2), device=q.device)
    mask = (pattern or SparsePattern(window=len(every))).mask(every, every)
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.size(1) != k.size(1))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., C), weight (C,) -> (..., C)."""
    return F.rms_norm(x, weight.shape, weight, eps)


def feed_forward(x: Tensor, up: Tensor, down: Tensor, gate: Tensor) -> Tensor:
    """down (silu(gate x) * up x). x (..., C), up, gate (F, C), down (C, F) -> (..., C)."""
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def next_token(
    x: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, keys: Tensor, values: Tensor, n_head: int
) -> Tensor:
    """x (B, 1, C), q (H D, C), k, v (G D, C), o (C, H D), keys, values (B, G, S, D), of which the last place is written
    -> (B, 1, C)."""
    for storage, weight in ((keys, k), (values, v)):
        storage[:, :, -1] = F.linear(x[:, 0], weight).unflatten(-1, (keys.size(1), -1))
    query = F.linear(x, q).unflatten(-1, (n_head, -1)).transpose(1, 2)
    y = F.scaled_dot_product_attention(query, keys, values, enable_gqa=n_head != keys.size(1))
    return F.linear(y.transpose(1, 2).flatten(2), o)


def dot_rows(x: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    """x (N, C), table (rows, m C), ids (N, J) -> (N, J, m)."""
    return torch.einsum("nc,njmc->njm", x, table[ids].unflatten(-1, (-1, x.size(1))))


def add_rows(weights: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    """weights (N, J, m), table (rows, m C), ids (N, J) -> (N, C)."""
    return torch.einsum("njm,njmc->nc", weights, table[ids].unflatten(-1, (weights.size(2), -1)))


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """hidden (N, C), weight (V, C), targets (N,) -> the sum over tokens, in nats."""
    return F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
