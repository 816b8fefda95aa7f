"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, 2.1; DeepSeek-V3, arXiv:2412.19437, 2.1.1).

    c_q = norm(W_qa x)                        or q = W_q x, without a query rank
    [q_nope ; q_rope] = W_qb c_q              per head
    [c_kv ; k_rope]   = W_kva x               one k_rope for all heads
    [k_nope ; v]      = W_kvb norm(c_kv)      per head
    head = softmax([q_nope ; R q_rope] [k_nope ; R k_rope]^T / sqrt(D_nope + D_rope) + causal mask) v

R is the position's rotation. The cache holds norm(c_kv) and R k_rope only: kv_lora_rank + qk_rope_head_dim numbers per
token. Reading it, a few queries are better turned into the latents' space than all keys and values out of it:

    q_nope k_nope = (q_nope W_uk) c_kv,   sum_s p_s v_s = (sum_s p_s c_kv_s) W_uv,   W_kvb = [W_uk ; W_uv]

which is multi-query attention with keys [c_kv ; k_rope] and values c_kv ("absorbed"). Names are DeepSeek's in
transformers. Its rope pairs neighbours and ours halves, a permutation of those rows of W_qb and W_kva that are rotated.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Aux, Context, Dims, Position
from foundry.kernels import Linear
from foundry.modules.attention import MLAParams
from foundry.modules.attention.attend import attend, new_positions
from foundry.modules.attention.cache import TokenCache
from foundry.modules.norm import RMSNormParams
from foundry.modules.norm.rmsnorm import RMSNorm


class MultiHeadLatentAttention(nn.Module):
    def __init__(self, params: MLAParams, dims: Dims, position: Position | None) -> None:
        super().__init__()
        sizes = params.sizes(dims)
        self.n_head, self.rank = dims.n_head, sizes.kv_lora_rank
        self.nope, self.rope, self.value = sizes.qk_nope_head_dim, sizes.qk_rope_head_dim, sizes.v_head_dim
        queries, of_norm = self.n_head * (self.nope + self.rope), RMSNormParams(eps=params.norm_eps)
        if sizes.q_lora_rank is None:
            self.q_proj = Linear(dims.n_embd, queries, bias=False)
        else:
            self.q_a_proj = Linear(dims.n_embd, sizes.q_lora_rank, bias=dims.bias)
            self.q_a_layernorm = RMSNorm(of_norm, dims, sizes.q_lora_rank)
            self.q_b_proj = Linear(sizes.q_lora_rank, queries, bias=False)
        self.has_query_rank = sizes.q_lora_rank is not None
        self.kv_a_proj_with_mqa = Linear(dims.n_embd, self.rank + self.rope, bias=dims.bias)
        self.kv_a_layernorm = RMSNorm(of_norm, dims, self.rank)
        self.kv_b_proj = Linear(self.rank, self.n_head * (self.nope + self.value), bias=False)
        self.o_proj = Linear(self.n_head * self.value, dims.n_embd, bias=dims.bias)
        self.position = position  # one module for all layers that choose the same
        self.rotate = getattr(position, "rotate", None)
        self.score_factor: float = dims.multipliers.scores * getattr(position, "score_factor", 1.0)
        self.dropout = dims.dropout
        self.residual_std = dims.residual_std

    def forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        batch, length, _ = x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if self.has_query_rank else self.q_proj(x)
        q_nope, q_rope = q.unflatten(-1, (self.n_head, -1)).transpose(1, 2).split((self.nope, self.rope), dim=-1)
        c_kv, k_rope = self.kv_a_proj_with_mqa(x).split((self.rank, self.rope), dim=-1)
        k_rope = k_rope[:, None]  # (B, 1, T, D_rope): one head
        if self.rotate is not None:
            q_rope, k_rope = self.rotate(q_rope, k_rope, new_positions(x, ctx))
        latents = torch.cat((self.kv_a_layernorm(c_kv), k_rope[:, 0]), dim=-1)  # (B, T, rank + D_rope)
        if ctx.cache is not None:
            (latents,) = ctx.cache.extend(latents)
        if self.score_factor != 1:
            q_nope, q_rope = q_nope * self.score_factor, q_rope * self.score_factor
        through = self.absorbed if self.absorbs(length, latents.size(1)) else self.expanded
        y = through(q_nope, q_rope, latents, ctx)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, self.n_head * self.value)), {}

    def absorbs(self, new: int, total: int) -> bool:
        """Whether so many queries cost less in the latents' space: a query there reads 2 rank + D_rope numbers of a
        token instead of D_nope + D_rope + D_v, and no token is expanded, at rank (D_nope + D_v) products each."""
        expanded = self.nope + self.value
        return new < total and new * (2 * self.rank - expanded) <= self.rank * expanded

    def expanded(self, q_nope: Tensor, q_rope: Tensor, latents: Tensor, ctx: Context) -> Tensor:
        """q (B, H, T, .), latents (B, S, rank + D_rope) -> (B, H, T, D_v), by making every head's keys and values."""
        c_kv, k_rope = latents.split((self.rank, self.rope), dim=-1)
        kv = self.kv_b_proj(c_kv).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
        k_nope, v = kv.split((self.nope, self.value), dim=-1)
        q = torch.cat((q_nope, q_rope), dim=-1)
        k = torch.cat((k_nope, k_rope[:, None].expand(-1, self.n_head, -1, -1)), dim=-1)
        # Fused kernels know one width only: without the zeros, all T x S scores would be held.
        v = F.pad(v, (0, max(0, q.size(-1) - self.value)))
        return attend(q, k, v, ctx, dropout=self.dropout if self.training else 0.0)[..., : self.value]

    def absorbed(self, q_nope: Tensor, q_rope: Tensor, latents: Tensor, ctx: Context) -> Tensor:
        """The same, through the latents themselves."""
        w_uk, w_uv = self.kv_b_proj.weight.unflatten(0, (self.n_head, -1)).split((self.nope, self.value), dim=1)
        q = torch.cat((q_nope @ w_uk, q_rope), dim=-1) * math.sqrt((self.rank + self.rope) / (self.nope + self.rope))
        keys = latents[:, None]
        mixed = attend(q, keys, keys[..., : self.rank], ctx, dropout=self.dropout if self.training else 0.0)
        return mixed @ w_uv.transpose(1, 2)

    def init_cache(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device | str) -> TokenCache:
        return TokenCache(torch.zeros(batch, max_len, self.rank + self.rope, dtype=dtype, device=device))

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        if name != "o_proj.weight":
            return False
        tensor.normal_(0.0, self.residual_std, generator=generator)
        return True
