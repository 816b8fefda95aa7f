"""Multi-head attention (Vaswani et al., 2017, arXiv:1706.03762).

    head_h = softmax(q_h k_h^T / sqrt(D) + causal mask) v_h,   y = [head_1 ... head_H] W_o

x (B, T, C) -> q, k, v (B, H, T, D) -> y (B, T, C). Queries and keys may be RMS-normalised, per head (arXiv:2302.05442)
or over all heads at once (OLMo 2, arXiv:2501.00656); scores may be capped and have sinks (see `attend.weigh`).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from foundry.core.contracts import Aux, Context, Dims, Position
from foundry.kernels import Linear, SparsePattern
from foundry.modules.attention import MHAParams
from foundry.modules.attention.attend import attend, new_positions
from foundry.modules.attention.cache import KVCache, TokenCache
from foundry.modules.attention.decoding import DecodingStep
from foundry.modules.norm import RMSNormParams
from foundry.modules.norm.rmsnorm import RMSNorm


class MultiHeadAttention(nn.Module):
    roles: ClassVar = {"sinks": "bias"}

    def __init__(self, params: MHAParams, dims: Dims, position: Position | None) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = dims.n_head, params.kv_heads(dims), dims.head_dim
        queries, keys = self.n_head * self.head_dim, self.n_kv_head * self.head_dim
        qkv_bias = dims.bias if params.qkv_bias is None else params.qkv_bias
        self.q_proj = Linear(dims.n_embd, queries, bias=qkv_bias)
        self.k_proj = Linear(dims.n_embd, keys, bias=qkv_bias)
        self.v_proj = Linear(dims.n_embd, keys, bias=qkv_bias)
        self.o_proj = Linear(queries, dims.n_embd, bias=dims.bias)
        self.norm_all_heads = params.qk_norm_over == "all_heads"
        if params.qk_norm:
            of_norm, one_norm = RMSNormParams(eps=params.qk_norm_eps), self.norm_all_heads
            self.q_norm: RMSNorm | None = RMSNorm(of_norm, dims, queries if one_norm else self.head_dim)
            self.k_norm: RMSNorm | None = RMSNorm(of_norm, dims, keys if one_norm else self.head_dim)
        else:
            self.q_norm = self.k_norm = None
        self.softcap = params.softcap
        self.sinks = nn.Parameter(torch.empty(self.n_head)) if params.sinks else None
        self.position = position  # one module for all layers that choose the same
        self.rotate = getattr(position, "rotate", None)
        self.score_bias = getattr(position, "bias", None)
        self.pattern: SparsePattern | None = None  # what a query sees; None: everything before it
        self.score_multiplier = dims.multipliers.scores
        self.dropout = dims.dropout
        self.residual_std = dims.residual_std

    def forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        batch, length, _ = x.shape
        q, k, v = self.project(x, ctx)
        if self.rotate is not None:
            q, k = self.rotate(q, k, new_positions(x, ctx))
        if ctx.cache is not None:
            k, v = ctx.cache.extend(k, v, real=ctx.key_padding)
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, ctx, self.score_bias, dropout, self.softcap, self.sinks, self.pattern)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, self.n_head * self.head_dim)), {}

    def project(self, x: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, C) -> q (B, H, T, D), k, v (B, H_kv, T, D), normalised, without positions; q times what the scale
        rule multiplies scores with."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if ctx.mix is not None:
            q, k, v = ctx.mix(torch.cat((q, k, v), dim=-1)).split([each.size(-1) for each in (q, k, v)], dim=-1)
        if self.q_norm is not None and self.k_norm is not None and self.norm_all_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        if ctx.value is not None:
            v = v + ctx.value
        q, k, v = (heads.view(*x.shape[:2], -1, self.head_dim) for heads in (q, k, v))
        if self.q_norm is not None and self.k_norm is not None and not self.norm_all_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.score_multiplier != 1:
            q = q * self.score_multiplier
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def decoding_step(self) -> DecodingStep | None:
        return DecodingStep.of(self)

    def init_cache(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device | str) -> TokenCache:
        return KVCache(batch, self.n_kv_head, max_len, self.head_dim, dtype, device)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        if name == "o_proj.weight":
            tensor.normal_(0.0, self.residual_std, generator=generator)
        elif name == "sinks":
            tensor.zero_()  # as heavy as one key whose score is 0
        else:
            return False
        return True
