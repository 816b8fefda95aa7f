"""What every softmax attention does between its projections: who sees whom, and the weighted sum."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from foundry.core.contracts import Context, UsageError
from foundry.kernels import causal_attention

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
) -> Tensor:
    """Causal softmax(q k^T / sqrt(D) + bias) v.

    Args:
        q: (B, H, T, D), the last T tokens of the keys.
        k, v: (B, H_kv, S, D), S >= T; each key/value head serves H / H_kv consecutive query heads.
        ctx: restricts what is seen further: the same segment, and only real tokens.
        dropout: probability of dropping an attention weight; 0 outside training.
        softcap, sinks: see `weigh`.

    Returns:
        (B, H, T, D)
    """
    (batch, n_head, new, size), (_, n_kv_head, total, _) = q.shape, k.shape
    by_hand = softcap is not None or sinks is not None  # no kernel of torch's knows these
    plain = ctx.segments is None and ctx.key_padding is None and score_bias is None and not by_hand
    if plain and (new == total or new == 1):
        # A single new token sees everything before it; whole rows are the kernels' own causal case.
        mask, is_causal = None, new > 1
    else:
        mask, is_causal = visible(ctx, new, total, q.device), False
        if score_bias is not None:
            bias = score_bias(*positions_of(ctx, new, total, q.device)).to(q.dtype)
            mask = bias.masked_fill(~mask, float("-inf"))
        if by_hand:
            return weigh(q, k, v, mask, dropout, softcap, sinks)
    if is_causal and not dropout:
        return causal_attention(q, k, v)
    grouped = n_kv_head != n_head
    if grouped and new == 1 and score_bias is None:
        # One key head's single queries are as good as consecutive ones: a third of the time over a long cache.
        y = F.scaled_dot_product_attention(q.reshape(batch, n_kv_head, -1, size), k, v, mask, dropout)
        return y.reshape(batch, n_head, new, v.size(-1))
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, enable_gqa=grouped)


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
    weights = scores.softmax(dim=-1, dtype=torch.float32)[..., : k.size(2)].to(v.dtype)
    return F.dropout(weights, dropout) @ v


def visible(ctx: Context, new: int, total: int, device: torch.device) -> Tensor:
    """(B or 1, 1, T, S) bool: may the query see the key. Every token sees itself, also where it is padding, so that no
    softmax runs over nothing."""
    keys = torch.arange(total, device=device)
    queries = keys[total - new :, None]
    mask = (keys <= queries)[None]
    if ctx.segments is not None:
        if new != total:
            raise UsageError("segments and a filled cache do not go together", "cache one document per row")
        mask = mask & (ctx.segments[:, :, None] == ctx.segments[:, None, :])
    if ctx.key_padding is not None:
        mask = mask & (ctx.key_padding[:, None, :] | (keys == queries))
    return mask[:, None]


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
