"""Native sparse attention (Yuan et al., 2025, arXiv:2502.11089), exact and written for correctness, not for speed.

    y_t = g_c(x_t) compressed + g_s(x_t) selected + g_w(x_t) windowed,      g = sigmoid(W_g x), one per head and branch

    compressed  attention over phi(k_id .. k_id+l-1), v likewise: one key and value for each l tokens, every d tokens;
                seen once all its tokens are. phi is an MLP over the block's tokens with their places in it.
    selected    attention over the tokens of n blocks of l' tokens: the first, the query's own and the one before it,
                and those to which the compressed attention of all heads that share a key gives most weight
    windowed    attention over the last W tokens

Each branch has keys and values of its own. A block's weight is the sum over its stretches of d tokens of the weights of
the compressed blocks that hold them (the paper's equation 9, read so that both sides speak of the same tokens). Blocks
are counted within a document, padding aside. x (B, T, C); q (B, H, T, D); k, v (B, 3 H_kv, T, D), branch by branch.
"""

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Aux, Context, Dims, Position
from foundry.kernels import Linear, SparsePattern
from foundry.modules.attention import NSAParams
from foundry.modules.attention.attend import attend, new_positions, numbers_of
from foundry.modules.attention.cache import KVCache

BRANCHES = 3


class Row(NamedTuple):
    """What the first two branches know of the keys: the i-th one's number in its document, which that is, and whether
    it is a token at all, each (B or 1, S); of the queries the same, (B or 1, T). A document's keys lie together."""

    number: Tensor
    document: Tensor
    real: Tensor
    query_number: Tensor
    query_document: Tensor
    one_document: bool  # the i-th key has the number i


class NativeSparseAttention(nn.Module):
    def __init__(self, params: NSAParams, dims: Dims, position: Position | None) -> None:
        super().__init__()
        self.params, self.n_head, self.head_dim = params, dims.n_head, dims.head_dim
        self.n_kv_head = params.kv_heads(dims)
        queries, keys = self.n_head * self.head_dim, BRANCHES * self.n_kv_head * self.head_dim
        self.q_proj = Linear(dims.n_embd, queries, bias=dims.bias)
        self.k_proj = Linear(dims.n_embd, keys, bias=dims.bias)
        self.v_proj = Linear(dims.n_embd, keys, bias=dims.bias)
        self.g_proj = Linear(dims.n_embd, BRANCHES * self.n_head, bias=dims.bias)
        self.o_proj = Linear(queries, dims.n_embd, bias=dims.bias)
        self.compress_k = Compression(params.compression_block, self.head_dim)
        self.compress_v = Compression(params.compression_block, self.head_dim)
        self.pattern = SparsePattern(params.window_size(dims))
        self.position = position  # one module for all layers that choose the same
        self.rotate = getattr(position, "rotate", None)
        self.score_multiplier = dims.multipliers.scores
        self.dropout = dims.dropout
        self.residual_std = dims.residual_std

    def forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        projected = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, k, v = (heads.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for heads in projected)
        if self.rotate is not None:
            q, k = self.rotate(q, k, new_positions(x, ctx))
        if ctx.cache is not None:
            k, v = ctx.cache.extend(k, v)
        q = q * self.score_multiplier
        (k_c, k_s, k_w), (v_c, v_s, v_w) = k.chunk(BRANCHES, dim=1), v.chunk(BRANCHES, dim=1)
        row, (k_c, v_c, k_s, v_s) = laid_out(ctx, q.size(2), (k_c, v_c, k_s, v_s))
        compressed, importance = self.compressed(q, k_c, v_c, row)
        selected = self.selected(q, k_s, v_s, importance, row)
        windowed = attend(q, k_w, v_w, ctx, dropout=self.dropout if self.training else 0.0, pattern=self.pattern)
        gates = self.g_proj(x).sigmoid().unflatten(-1, (BRANCHES, self.n_head)).transpose(1, 3)  # (B, H, 3, T)
        y = sum(gate[..., None] * y for gate, y in zip(gates.unbind(2), (compressed, selected, windowed), strict=True))
        return self.o_proj(y.transpose(1, 2).flatten(2)), {}

    def compressed(self, q: Tensor, k: Tensor, v: Tensor, row: Row) -> tuple[Tensor, Tensor]:
        """q (B, H, T, D), k, v (B, H_kv, S, D) -> (B, H, T, D), and how much weight each block of the next branch has
        for a query, (B, H_kv, T, blocks): those of all heads that share a key together."""
        length, stride = self.params.compression_block, self.params.compression_stride
        size, total = self.params.selection_block, k.size(2)
        blocks = -(-total // size)
        if total < length:
            return torch.zeros_like(q), q.new_zeros(q.size(0), self.n_kv_head, q.size(2), blocks)
        # Where documents begin anywhere, their blocks do so, too; those that are no block of a document are not seen.
        starts = torch.arange(0, total - length + 1, stride if row.one_document else 1, device=q.device)
        first, last = row.number[:, starts], row.number[:, starts + length - 1]
        whole = (row.document[:, starts] == row.document[:, starts + length - 1]) & (last - first == length - 1)
        whole = whole & (first % stride == 0) & row.real[:, starts] & row.real[:, starts + length - 1]
        seen = whole[:, None] & (last[:, None] <= row.query_number[..., None])
        seen = seen & (row.document[:, None, starts] == row.query_document[..., None])  # (B or 1, T, starts)
        p = self.weights(q, self.compress_k(k, starts), seen[:, None])
        y = self.mix(p, self.compress_v(v, starts))
        block = torch.arange(blocks, device=q.device) * size
        shared = torch.minimum(last[..., None] + 1, block + size) - torch.maximum(first[..., None], block)
        stretches = (shared.clamp_min(0) // stride).to(p.dtype)  # (B or 1, starts, blocks)
        importance = p.detach() @ stretches[:, None]
        return y, importance.unflatten(1, (self.n_kv_head, -1)).sum(2)

    def selected(self, q: Tensor, k: Tensor, v: Tensor, importance: Tensor, row: Row) -> Tensor:
        """q (B, H, T, D), k, v (B, H_kv, S, D), importance (B, H_kv, T, blocks) -> (B, H, T, D)."""
        size, blocks = self.params.selection_block, importance.size(-1)
        own = (row.query_number // size)[:, None, :, None]
        block = torch.arange(blocks, device=q.device)
        always = (block == 0) | (block == own) | (block == own - 1)
        ranked = importance.masked_fill(always, float("inf")).masked_fill(block > own, float("-inf"))
        # Stable: of equals the earlier, whatever comes later.
        best = ranked.argsort(dim=-1, descending=True, stable=True)[..., : self.params.n_selected]
        chosen = torch.zeros_like(ranked, dtype=torch.bool).scatter(-1, best, True)
        of_key = (row.number // size)[:, None, None].expand(*chosen.shape[:3], -1)
        seen = (row.number[:, None] <= row.query_number[..., None]) & row.real[:, None]
        seen = seen & (row.document[:, None] == row.query_document[..., None])
        seen = seen[:, None] & chosen.gather(-1, of_key)  # (B, H_kv, T, S)
        return self.mix(self.weights(q, k, seen.repeat_interleave(self.n_head // self.n_kv_head, dim=1)), v)

    def weights(self, q: Tensor, k: Tensor, seen: Tensor) -> Tensor:
        """Attention's weights, (B, H, T, S): 0 for what is not seen, also where nothing is."""
        k = k.repeat_interleave(self.n_head // self.n_kv_head, dim=1)
        scores = (q * self.head_dim**-0.5) @ k.transpose(-1, -2)
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        return weights.masked_fill(~seen, 0.0).to(q.dtype)

    def mix(self, p: Tensor, v: Tensor) -> Tensor:
        p = F.dropout(p, self.dropout, self.training)
        return p.to(v.dtype) @ v.repeat_interleave(self.n_head // self.n_kv_head, dim=1)

    def init_cache(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device | str) -> KVCache:
        return KVCache(batch, BRANCHES * self.n_kv_head, max_len, self.head_dim, dtype, device)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        if name != "o_proj.weight":
            return False
        tensor.normal_(0.0, self.residual_std, generator=generator)
        return True


class Compression(nn.Module):
    """phi: a block's vectors, each with an embedding of its place, one after the other, through an MLP."""

    roles: ClassVar = {"place": "table"}

    def __init__(self, length: int, size: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(length, size))
        self.up_proj = Linear(length * size, size, bias=False)
        self.down_proj = Linear(size, size, bias=False)

    def forward(self, x: Tensor, starts: Tensor) -> Tensor:
        """x (B, H_kv, S, D), starts (n,) -> (B, H_kv, n, D)."""
        places = torch.arange(len(self.place), device=x.device)
        blocks = x[:, :, starts[:, None] + places] + self.place.to(x.dtype)  # (B, H_kv, n, l, D)
        return self.down_proj(F.gelu(self.up_proj(blocks.flatten(-2))))


def laid_out(ctx: Context, new: int, heads: tuple[Tensor, ...]) -> tuple[Row, tuple[Tensor, ...]]:
    """What is known of the keys, and the keys and values, (B, H_kv, S, D) each, in that order: where a row is one
    document with padding in it, its tokens first."""
    total, device = heads[0].size(2), heads[0].device
    number = numbers_of(ctx, total, device)
    query_number = number[:, total - new :]
    if ctx.segments is not None:
        real = torch.ones_like(ctx.segments, dtype=torch.bool) if ctx.key_padding is None else ctx.key_padding
        return Row(number, ctx.segments, real, query_number, ctx.segments, one_document=False), heads
    in_order = torch.arange(total, device=device)[None]
    if ctx.key_padding is None:
        row = Row(in_order, in_order * 0, in_order >= 0, query_number, query_number * 0, one_document=True)
        return row, heads
    order = (~ctx.key_padding).long().argsort(dim=-1, stable=True)
    heads = tuple(each.gather(2, order[:, None, :, None].expand_as(each)) for each in heads)
    real = in_order < ctx.key_padding.sum(-1, keepdim=True)
    return Row(in_order, in_order * 0, real, query_number, query_number * 0, one_document=True), heads
