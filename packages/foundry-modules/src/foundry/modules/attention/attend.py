"""What every softmax attention does between its projections: the mask, and the weighted sum."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from foundry.core.contracts import Context, UsageError
from foundry.kernels import SparsePattern, causal_attention, sparse_attention

ScoreBias = Callable[[Tensor, Tensor], Tensor]
"""`Position.bias`: query positions (B, T), key positions (B, S) -> (B, H, T, S)."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ctx: Context,
    score_bias: ScoreBias | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    pattern: SparsePattern | None = None,
) -> Tensor:
    """Causal softmax(q k^T / sqrt(D) + bias) v.

    Args:
        q: (B, H, T, D), the last T tokens of the keys.
        k: (B, H_kv, S, D), S >= T; v: (B, H_kv, S, D_v). Each of their heads serves H / H_kv consecutive query heads.
        ctx: restricts what is seen further: the same segment, and only real tokens. Its `key_padding` may begin before
            the keys, where a cache has forgotten the first of them.
        dropout: probability of dropping an attention weight; 0 outside training.
        softcap, sinks: see `weigh`.
        pattern: restricts what is seen to a part of what is before; tokens are counted within their document.

    Returns:
        (B, H, T, D_v)
    """
    new, total, device, dtype = q.size(2), k.size(2), q.device, q.dtype
    if ctx.key_padding is not None:
        ctx = ctx._replace(key_padding=ctx.key_padding[:, -total:])
    if pattern is not None and pattern.sees_all(total):
        pattern = None
    by_hand = softcap is not None or sinks is not None  # no kernel of torch's knows these
    plain = ctx.segments is None and ctx.key_padding is None and score_bias is None and not by_hand
    if plain and new == 1 and pattern is not None and pattern.is_window:
        k, v, pattern = k[:, :, -pattern.window :], v[:, :, -pattern.window :], None
    if plain and pattern is None and (new == total or new == 1):
        return fused(q, k, v, None, dropout)
    if plain and new == total and not dropout:
        return causal_attention(q, k, v, pattern)

    def mask_of(queries: Tensor, keys: Tensor) -> Tensor:
        mask = visible(ctx, queries, keys, total, pattern)
        if score_bias is None:
            return mask
        of_queries, of_keys = positions_of(ctx, new, total, device)
        bias = score_bias(of_queries[:, queries - (total - new)], of_keys[:, keys]).to(dtype)
        return bias.masked_fill(~mask, float("-inf"))

    def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        if by_hand:
            return weigh(q, k, v, mask, dropout, softcap, sinks)
        return fused(q, k, v, mask, dropout)

    if pattern is not None and new == total and is_as_far_by_index(ctx, pattern):
        by_torch = score_bias is None and not by_hand and not dropout
        return sparse_attention(q, k, v, pattern, mask_of, None if by_torch else masked)
    keys = torch.arange(total, device=device)
    return masked(q, k, v, mask_of(keys[total - new :], keys))


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention by torch's kernels. Without a mask, whole rows are causal, and a single query sees every key."""
    (batch, n_head, new, size), n_kv_head = q.shape, k.size(1)
    grouped, is_causal = n_kv_head != n_head, mask is None and new > 1
    if is_causal and not dropout:
        return causal_attention(q, k, v)
    if grouped and new == 1 and (mask is None or mask.size(1) == 1):
        # One key head's single queries are as good as consecutive ones: a third of the time over a long cache.
        y = F.scaled_dot_product_attention(q.reshape(batch, n_kv_head, -1, size), k, v, mask, dropout)
        return y.reshape(batch, n_head, new, v.size(-1))
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, enable_gqa=grouped)


def is_as_far_by_index(ctx: Context, pattern: SparsePattern) -> bool:
    """Whether what the pattern sees of a row can be told from where tokens stand in it: padding may stand between two
    tokens of a document, and blocks begin with each document."""
    return ctx.key_padding is None and (ctx.segments is None or pattern.is_window)


def weigh(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Attention written out, for what fused kernels do not know. It holds all T x S scores.

        s = c tanh(q k^T / (c sqrt(D))) + bias        c = softcap: scores stay within +-c (arXiv:2408.00118)
        y = sum_j e^s_j v_j / (e^sink + sum_j e^s_j)  a learned place to look at nothing (gpt-oss, arXiv:2508.10925)

    Args:
        q: (B, H, T, D); k, v: (B, H_kv, S, D).
        mask: broadcasts to (B, H, T, S); bool, where False is not seen, or a bias to be added.
        sinks: (H,), a score of each head that has no value; or None.
    """
    groups = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-1, -2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        sink = sinks.to(scores.dtype)[:, None, None].expand(q.size(0), -1, q.size(2), 1)
        scores = torch.cat((scores, sink), dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return F.dropout(weights[..., : k.size(2)].to(v.dtype), dropout) @ v


def visible(ctx: Context, queries: Tensor, keys: Tensor, total: int, pattern: SparsePattern | None = None) -> Tensor:
    """What `ctx` and `pattern` let queries see of the keys in a row of `total` tokens, as `Context.sees` has it."""
    if ctx.segments is not None and ctx.segments.size(1) != total:
        raise UsageError("segments and a filled cache cannot be combined", "cache one document per row")
    seen = ctx.sees(queries, keys)
    if pattern is not None:
        numbers = numbers_of(ctx, total, keys.device)
        seen = seen & pattern.sees(numbers[:, queries, None], numbers[:, None, keys])[:, None]
    return seen


def numbers_of(ctx: Context, total: int, device: torch.device) -> Tensor:
    """The number of each token in its document, padding not counted: (B or 1, S)."""
    if ctx.segments is not None and ctx.positions is not None:
        return ctx.positions
    if ctx.key_padding is not None:
        return (ctx.key_padding.long().cumsum(-1) - 1).clamp_min(0)
    return torch.arange(total, device=device)[None]


def new_positions(x: Tensor, ctx: Context) -> Tensor | None:
    """Positions of x (B, T, C) for `Position.rotate`: (B, T), or None for 0..T-1."""
    if ctx.positions is not None or ctx.cache is None or not ctx.cache.length:
        return ctx.positions
    batch, new, _ = x.shape
    return torch.arange(ctx.cache.length, ctx.cache.length + new, device=x.device).expand(batch, new)


def positions_of(ctx: Context, new: int, total: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of queries (B or 1, T) and keys (B or 1, S)."""
    if ctx.positions is not None and new == total:
        return ctx.positions, ctx.positions
    # A cached row is one document: its tokens count up, padding aside, to the position of the last query.
    keys = torch.arange(total, device=device)[None] if ctx.key_padding is None else ctx.key_padding.cumsum(-1)
    if ctx.positions is None:
        return keys[:, total - new :], keys
    return ctx.positions, keys - keys[:, -1:] + ctx.positions[:, -1:]
