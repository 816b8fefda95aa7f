"""The two products of a token with the few rows of a large table that it chose:

    dot_rows(x, table, ids)[n, j] = table[ids[n, j]] . x[n]             (N, J, m)
    add_rows(w, table, ids)[n]    = sum_j  w[n, j] . table[ids[n, j]]   (N, C)

x (N, C); ids (N, J) int64; w (N, J, m); table (rows, m * C), each row m vectors side by side. Each product is the other
one's gradient, and both have the same gradient with respect to the table: w[n, j] x[n]^T, added at row ids[n, j].

The rows are gathered again in the backward pass, so nothing of size (N, J, C) is kept for it. The table's gradient is
dense, added in a fixed order; or, with `sparse`, a COO tensor of the chosen rows, one entry per choice.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from foundry.modules.ffn import autocast


def dot_rows(x: Tensor, table: Tensor, ids: Tensor, *, sparse: bool = False) -> Tensor:
    return _dot_rows(autocast.cast(x), table, ids, sparse)


def add_rows(weights: Tensor, table: Tensor, ids: Tensor, *, sparse: bool = False) -> Tensor:
    return _add_rows(autocast.cast(weights), table, ids, sparse)


# Operations of their own, because torch.compile cannot trace the making of a sparse tensor. It remembers compiled
# graphs from one process to the next by the names of operations, not by their backward passes: a changed one needs v2.


@torch.library.custom_op("foundry::dot_rows_v1", mutates_args=())
def _dot_rows(x: Tensor, table: Tensor, ids: Tensor, sparse: bool) -> Tensor:
    return _dot(x, table, ids)


@torch.library.custom_op("foundry::add_rows_v1", mutates_args=())
def _add_rows(weights: Tensor, table: Tensor, ids: Tensor, sparse: bool) -> Tensor:
    return _add(weights, table, ids)


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
    of_table = _of_table(upstream, x, table, ids, ctx.sparse) if ctx.needs_input_grad[1] else None
    return of_x, of_table, None, None


def _backward_of_add(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    weights, table, ids = ctx.saved_tensors
    of_weights = dot_rows(upstream, table, ids) if ctx.needs_input_grad[0] else None
    of_table = _of_table(weights, upstream, table, ids, ctx.sparse) if ctx.needs_input_grad[1] else None
    return of_weights, of_table, None, None


_dot_rows.register_autograd(_backward_of_dot, setup_context=_keep)
_add_rows.register_autograd(_backward_of_add, setup_context=_keep)


@register_flop_formula([torch.ops.foundry.dot_rows_v1, torch.ops.foundry.add_rows_v1])
def _flops(vectors: list[int], table: list[int], ids: list[int], *_: Any, **__: Any) -> int:
    return 2 * ids[0] * ids[1] * table[1]


def _gather(table: Tensor, ids: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """(N, J * m, C): the chosen rows of each token."""
    return F.embedding(ids, table).view(ids.size(0), -1, width).to(dtype)


def _dot(x: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    rows = _gather(table, ids, x.size(1), x.dtype)
    return torch.bmm(rows, x[:, :, None]).view(*ids.shape, -1)


def _add(weights: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    rows = _gather(table, ids, table.size(1) // weights.size(2), weights.dtype)
    return torch.bmm(weights.flatten(1)[:, None], rows)[:, 0]


def _of_table(weights: Tensor, x: Tensor, table: Tensor, ids: Tensor, sparse: bool) -> Tensor:
    if sparse:
        return _row_sparse(weights, x, ids, table.size(0), table.dtype)
    return torch.ops.aten.embedding_dense_backward(_outer(weights, x, table.dtype), ids, table.size(0), -1, False)


def _make_row_sparse(weights: Tensor, x: Tensor, ids: Tensor, n_rows: int, dtype: torch.dtype) -> Tensor:
    """In memory of its own: compiled code would use that of its parts again."""
    rows = _outer(weights, x, dtype).flatten(0, 1)
    return torch.sparse_coo_tensor(ids.flatten()[None].clone(), rows, (n_rows, rows.size(1)), check_invariants=False)


_row_sparse = torch.library.custom_op("foundry::row_sparse_v1", _make_row_sparse, mutates_args=())
_row_sparse.register_fake(_make_row_sparse)


def _outer(weights: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, J, m), (N, C) -> (N, J, m * C): what each choice adds to its row."""
    return (weights[..., None] * x[:, None, None]).to(dtype).flatten(2)
