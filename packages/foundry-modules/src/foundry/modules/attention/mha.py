"""Multi-head attention (Vaswani et al., 2017, arXiv:1706.03762).

    head_h = softmax(q_h k_h^T / sqrt(D) + causal mask) v_h,   y = [head_1 ... head_H] W_o

x (B, T, C) -> q, k, v (B, H, T, D) -> y (B, T, C). Queries and keys may be RMS-normalised per head (arXiv:2302.05442).
"""

import math

import torch
from torch import Tensor, nn

from foundry.core.contracts import Aux, Context, Dims, Position
from foundry.modules.attention import MHAParams
from foundry.modules.attention.attend import attend
from foundry.modules.attention.cache import KVCache
from foundry.modules.norm import RMSNormParams
from foundry.modules.norm.rmsnorm import RMSNorm


class MultiHeadAttention(nn.Module):
    def __init__(self, params: MHAParams, dims: Dims, position: Position | None, n_kv_head: int | None = None) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = dims.n_head, n_kv_head or dims.n_head, dims.head_dim
        qkv_bias = dims.bias if params.qkv_bias is None else params.qkv_bias
        self.q_proj = nn.Linear(dims.n_embd, self.n_head * self.head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(dims.n_embd, self.n_kv_head * self.head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(dims.n_embd, self.n_kv_head * self.head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(self.n_head * self.head_dim, dims.n_embd, bias=dims.bias)
        self.q_norm = RMSNorm(RMSNormParams(), dims, self.head_dim) if params.qk_norm else None
        self.k_norm = RMSNorm(RMSNormParams(), dims, self.head_dim) if params.qk_norm else None
        self.position = position  # one module for all layers that choose the same
        self.rotate = getattr(position, "rotate", None)
        self.score_bias = getattr(position, "bias", None)
        self.dropout = dims.dropout
        self.residual_std = 0.02 / math.sqrt(2 * dims.n_layer)  # GPT-2: 2 n_layer sums into the residual stream

    def forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.n_head, self.head_dim)
        k = self.k_proj(x).view(batch, length, self.n_kv_head, self.head_dim)
        v = self.v_proj(x).view(batch, length, self.n_kv_head, self.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        cache: KVCache | None = ctx.cache
        if self.rotate is not None:
            positions = ctx.positions
            if positions is None and cache is not None and cache.length:
                positions = torch.arange(cache.length, cache.length + length, device=x.device).expand(batch, length)
            q, k = self.rotate(q, k, positions)
        if cache is not None:
            k, v = cache.extend(k, v)
        dropout = self.dropout if self.training else 0.0
        y = attend(q, k, v, ctx, self.score_bias, dropout)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, self.n_head * self.head_dim)), {}

    def init_cache(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device | str) -> KVCache:
        return KVCache(batch, self.n_kv_head, max_len, self.head_dim, dtype, device)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        if name != "o_proj.weight":
            return False
        tensor.normal_(0.0, self.residual_std, generator=generator)
        return True
