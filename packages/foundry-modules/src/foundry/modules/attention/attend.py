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
    q: Tensor, k: Tensor, v: Tensor, ctx: Context, score_bias: ScoreBias | None = None, dropout: float = 0.0
) -> Tensor:
    """Causal softmax(q k^T / sqrt(D) + bias) v.

    Args:
        q: (B, H, T, D), the last T tokens of the keys.
        k, v: (B, H_kv, S, D), S >= T; each key/value head serves H / H_kv consecutive query heads.
        ctx: restricts what is seen further: the same segment, and only real tokens.
        dropout: probability of dropping an attention weight; 0 outside training.

    Returns:
        (B, H, T, D)
    """
    (batch, n_head, new, size), (_, n_kv_head, total, _) = q.shape, k.shape
    if ctx.segments is None and ctx.key_padding is None and score_bias is None and (new == total or new == 1):
        # A single new token sees everything before it; whole rows are the kernels' own causal case.
        mask, is_causal = None, new > 1
    else:
        mask, is_causal = visible(ctx, new, total, q.device), False
        if score_bias is not None:
            bias = score_bias(*positions_of(ctx, new, total, q.device)).to(q.dtype)
            mask = bias.masked_fill(~mask, float("-inf"))
    if is_causal and not dropout:
        return causal_attention(q, k, v)
    grouped = n_kv_head != n_head
    if grouped and new == 1 and score_bias is None:
        # One key head's single queries are as good as consecutive ones: a third of the time over a long cache.
        y = F.scaled_dot_product_attention(q.reshape(batch, n_kv_head, -1, size), k, v, mask, dropout)
        return y.reshape(q.shape)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, enable_gqa=grouped)


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


def positions_of(ctx: Context, new: int, total: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of queries (B or 1, T) and keys (B or 1, S)."""
    if ctx.positions is not None and new == total:
        return ctx.positions, ctx.positions
    # A cached row is one document: its tokens count up, padding aside, to the position of the last query.
    keys = torch.arange(total, device=device)[None] if ctx.key_padding is None else ctx.key_padding.cumsum(-1)
    if ctx.positions is None:
        return keys[:, total - new :], keys
    return ctx.positions, keys - keys[:, -1:] + ctx.positions[:, -1:]
