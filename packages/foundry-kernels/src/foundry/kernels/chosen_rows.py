"""The two products of a token with the few rows of a large table that it chose:

    dot_rows(x, table, ids)[n, j] = table[ids[n, j]] . x[n]             (N, J, m)
    add_rows(w, table, ids)[n]    = sum_j  w[n, j] . table[ids[n, j]]   (N, C)

x (N, C); ids (N, J) int64; w (N, J, m); table (rows, m * C), each row m vectors side by side. They are the products
with a sparse matrix of J entries per token, and on a CPU computed so: nothing of size (N, J, C) is made, nor kept for
the backward pass. Each is the other one's gradient, and both have the same gradient with respect to the table:
w[n, j] x[n]^T, added at row ids[n, j]. It is dense; or, with `sparse`, a COO tensor of the chosen rows, each once.

Forward and backward of 2048 tokens, 64 rows of 128 each, of 16,384, on one CPU core (benchmarks/routed.py): 11 ms dot,
18 ms add; with gathered rows and batched products 222 and 183 ms.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")  # since 2021


def dot_rows(x: Tensor, table: Tensor, ids: Tensor, *, sparse: bool = False) -> Tensor:
    """In the precision of the table, returned in that of x."""
    return _dot_rows(x.to(table.dtype), table, ids, sparse).to(x.dtype)


def add_rows(weights: Tensor, table: Tensor, ids: Tensor, *, sparse: bool = False) -> Tensor:
    """In the precision of the table, returned in that of the weights."""
    return _add_rows(weights.to(table.dtype), table, ids, sparse).to(weights.dtype)


# Operations of their own, because torch.compile cannot trace the making of a sparse tensor. It remembers compiled
# graphs from one process to the next by the names of operations, not by their backward passes: a changed one needs v3.


@torch.library.custom_op("foundry::dot_rows_v2", mutates_args=())
def _dot_rows(x: Tensor, table: Tensor, ids: Tensor, sparse: bool) -> Tensor:
    (n, width), vectors = x.shape, _vectors(table, x.size(1))
    flat = _vector_ids(ids, table.size(1) // width)
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and flat.size(1) <= len(vectors):
        starts = torch.arange(0, flat.numel() + 1, flat.size(1))
        zeros = x.new_zeros(flat.numel())
        chosen = torch.sparse_csr_tensor(starts, flat.flatten(), zeros, (n, vectors.size(0)), check_invariants=False)
        return torch.sparse.sampled_addmm(chosen, x, vectors.T, beta=0.0).values().view(*ids.shape, -1)
    with torch.autocast(x.device.type, enabled=False):
        return torch.bmm(F.embedding(flat, vectors), x[:, :, None]).view(*ids.shape, -1)


@torch.library.custom_op("foundry::add_rows_v2", mutates_args=())
def _add_rows(weights: Tensor, table: Tensor, ids: Tensor, sparse: bool) -> Tensor:
    m = weights.size(2)
    vectors = _vectors(table, table.size(1) // m)
    return F.embedding_bag(_vector_ids(ids, m), vectors, per_sample_weights=weights.flatten(1), mode="sum")


@_dot_rows.register_fake
def _(x: Tensor, table: Tensor, ids: Tensor, sparse: bool) -> Tensor:
    return x.new_empty(*ids.shape, table.size(1) // x.size(1))


@_add_rows.register_fake
def _(weights: Tensor, table: Tensor, ids: Tensor, sparse: bool) -> Tensor:
    return weights.new_empty(ids.size(0), table.size(1) // weights.size(2))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.sparse = inputs
    ctx.save_for_backward(*tensors)


def _backward_of_dot(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    x, table, ids = ctx.saved_tensors
    of_x = add_rows(upstream, table, ids) if ctx.needs_input_grad[0] else None
    return of_x, _of_table(ctx, upstream, x, table, ids), None, None


def _backward_of_add(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    weights, table, ids = ctx.saved_tensors
    of_weights = dot_rows(upstream, table, ids) if ctx.needs_input_grad[0] else None
    return of_weights, _of_table(ctx, weights, upstream, table, ids), None, None


_dot_rows.register_autograd(_backward_of_dot, setup_context=_keep)
_add_rows.register_autograd(_backward_of_add, setup_context=_keep)


@register_flop_formula([torch.ops.foundry.dot_rows_v2, torch.ops.foundry.add_rows_v2])
def _flops(vectors: list[int], table: list[int], ids: list[int], *_: Any, **__: Any) -> int:
    return 2 * ids[0] * ids[1] * table[1]


def _of_table(ctx: Any, weights: Tensor, x: Tensor, table: Tensor, ids: Tensor) -> Tensor | None:
    if not ctx.needs_input_grad[1]:
        return None
    return (_sparse_gradient if ctx.sparse else _dense_gradient)(weights, x, ids, table.size(0))


@torch.library.custom_op("foundry::gradient_of_rows_v2", mutates_args=())
def _dense_gradient(weights: Tensor, x: Tensor, ids: Tensor, n_rows: int) -> Tensor:
    m = weights.size(2)
    vector, order = _vector_ids(ids, m).flatten().sort(stable=True)
    counts = vector.new_zeros(n_rows * m).scatter_add_(0, vector, torch.ones_like(vector))
    return _sums(weights, x, order, counts).view(n_rows, -1)


@_dense_gradient.register_fake
def _(weights: Tensor, x: Tensor, ids: Tensor, n_rows: int) -> Tensor:
    return x.new_empty(n_rows, weights.size(2) * x.size(1))


@torch.library.custom_op("foundry::sparse_gradient_of_rows_v2", mutates_args=())
def _sparse_gradient(weights: Tensor, x: Tensor, ids: Tensor, n_rows: int) -> Tensor:
    m = weights.size(2)
    vector, order = _vector_ids(ids, m).flatten().sort(stable=True)
    vector, counts = vector.unique_consecutive(return_counts=True)
    rows = vector[::m] // m  # a row is chosen with all its vectors
    return _coo(rows, _sums(weights, x, order, counts).view(len(rows), -1), n_rows)


@_sparse_gradient.register_fake
def _(weights: Tensor, x: Tensor, ids: Tensor, n_rows: int) -> Tensor:
    """As if all rows were different: torch.compile has no sparse tensors of unknown size, and does not look inside."""
    return _coo(ids.new_empty(ids.numel()), x.new_empty(ids.numel(), weights.size(2) * x.size(1)), n_rows)


def _coo(rows: Tensor, values: Tensor, n_rows: int) -> Tensor:
    shape = (n_rows, values.size(1))
    return torch.sparse_coo_tensor(rows[None], values, shape, is_coalesced=True, check_invariants=False)


def _sums(weights: Tensor, x: Tensor, order: Tensor, counts: Tensor) -> Tensor:
    """The sum of weight times x over the choices of each vector: the first counts[0] in `order`, the next, ..."""
    starts, tokens = counts.cumsum(0) - counts, order // (weights.size(1) * weights.size(2))
    return F.embedding_bag(tokens, x, starts, per_sample_weights=weights.flatten()[order], mode="sum")


def _vectors(table: Tensor, width: int) -> Tensor:
    """(rows, m * C) -> (rows * m, C)."""
    return table.view(-1, width)


def _vector_ids(ids: Tensor, m: int) -> Tensor:
    """(N, J) rows -> (N, J * m), their vectors."""
    return ids if m == 1 else (ids[..., None] * m + torch.arange(m, device=ids.device)).flatten(1)
