"""Plain texts of attentions, see `foundry.core.contracts.plain_text`."""

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts.plain_text import Config, dims, only, settings, slots, spec


class Attention(nn.Module):
    """softmax(q k^T / sqrt(D) + causal mask) v in each head, and a product that mixes the heads."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        n_kv_head = settings.kv_heads(dims)  # key/value heads; each serves n_head / n_kv_head query heads
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.n_embd, config.n_head * config.head_dim, bias=settings.filled(dims).qkv_bias)
        self.k_proj = nn.Linear(config.n_embd, n_kv_head * config.head_dim, bias=settings.filled(dims).qkv_bias)
        self.v_proj = nn.Linear(config.n_embd, n_kv_head * config.head_dim, bias=settings.filled(dims).qkv_bias)
        self.o_proj = nn.Linear(config.n_head * config.head_dim, config.n_embd, bias=dims.bias)
        if settings.qk_norm and settings.qk_norm_over == "head":
            self.q_norm = nn.RMSNorm(config.head_dim, eps=settings.qk_norm_eps)
            self.k_norm = nn.RMSNorm(config.head_dim, eps=settings.qk_norm_eps)
        elif settings.qk_norm:
            self.q_norm = nn.RMSNorm(config.n_head * config.head_dim, eps=settings.qk_norm_eps)
            self.k_norm = nn.RMSNorm(n_kv_head * config.head_dim, eps=settings.qk_norm_eps)
        if settings.sinks:
            self.sinks = nn.Parameter(torch.zeros(config.n_head))  # a score per head that has no value
        if spec.position.acts_on in ("qk", "scores"):
            self.position = slots.position(config)

    def forward(
        self,
        x: Tensor,
        value: Annotated[Tensor, only(spec.value_embedding.has_part(dims))],
        mix: Annotated[Callable[[Tensor], Tensor], only("attention" in spec.canon.inside())],
    ) -> Tensor:
        """x (B, T, C) -> the same."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if "attention" in spec.canon.inside():
            q, k, v = mix(torch.cat((q, k, v), dim=-1)).split((q.size(-1), k.size(-1), v.size(-1)), dim=-1)
        if settings.qk_norm and settings.qk_norm_over == "all_heads":
            q, k = self.q_norm(q), self.k_norm(k)
        if spec.value_embedding.has_part(dims):
            v = v + value
        q, k, v = (each.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for each in (q, k, v))  # (B, H, T, D)
        if settings.qk_norm and settings.qk_norm_over == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        if dims.multipliers.scores != 1:
            q = q * dims.multipliers.scores
        if spec.position.acts_on == "qk":
            q, k = self.position(q), self.position(k)
        if dims.dropout:
            dropout = dims.dropout if self.training else 0.0
        if (
            hasattr(settings, "window")
            or spec.position.acts_on == "scores"
            or settings.softcap is not None
            or settings.sinks
        ):
            place = torch.arange(x.size(1), device=x.device)
            seen = place <= place[:, None]  # (T, T): what a query sees of the keys
            if hasattr(settings, "window") and not hasattr(settings, "stride"):
                window = settings.window_size(dims)  # tokens that a query sees, itself included
                seen &= place > place[:, None] - window
            if hasattr(settings, "stride"):
                block, window = settings.block, settings.window_size(dims)  # tokens of a block, and of a query's last
                near = place // block > place[:, None] // block - window // block
                column = (place // block + 1) % settings.stride == 0  # a block that all later ones see
                seen &= near | column
            if spec.position.acts_on == "scores":
                mask = self.position(x.size(1)).masked_fill(~seen, float("-inf"))
            else:
                mask = torch.zeros_like(seen, dtype=q.dtype).masked_fill(~seen, float("-inf"))
            if settings.softcap is not None or settings.sinks:
                groups = q.size(1) // k.size(1)
                k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
                scores = (q * q.size(-1) ** -0.5) @ k.transpose(-1, -2)
                if settings.softcap is not None:
                    scores = settings.softcap * torch.tanh(scores / settings.softcap)
                scores = scores + mask
                if settings.sinks:
                    sinks = self.sinks[:, None, None].expand(q.size(0), -1, q.size(2), 1)
                    scores = torch.cat((scores, sinks), dim=-1)
                weights = scores.softmax(dim=-1)[..., : k.size(2)]
                if dims.dropout:
                    weights = F.dropout(weights, dims.dropout, self.training)
                y = weights @ v
            else:
                y = F.scaled_dot_product_attention(
                    q,
                    k,
                    v,
                    mask,
                    dropout_p=only(dims.dropout, dropout),
                    enable_gqa=only(settings.kv_heads(dims) != dims.n_head, True),
                )
        else:
            y = F.scaled_dot_product_attention(
                q,
                k,
                v,
                is_causal=True,
                dropout_p=only(dims.dropout, dropout),
                enable_gqa=only(settings.kv_heads(dims) != dims.n_head, True),
            )
        return self.o_proj(y.transpose(1, 2).flatten(2))


class LatentAttention(nn.Module):
    """Keys and values are made of one small vector per token, c_kv; one key with a position serves all heads.

    score = ([q_nope ; R q_rope] [k_nope ; R k_rope]^T) / sqrt(D_nope + D_rope)
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.rank = settings.sizes(dims).kv_lora_rank  # of c_kv
        self.nope = settings.sizes(dims).qk_nope_head_dim  # width of a head's query and key without a position
        self.rope = settings.sizes(dims).qk_rope_head_dim  # and of their part with one
        self.value = settings.sizes(dims).v_head_dim
        queries = self.n_head * (self.nope + self.rope)
        if settings.q_lora_rank is None:
            self.q_proj = nn.Linear(config.n_embd, queries, bias=False)
        else:
            self.q_a_proj = nn.Linear(config.n_embd, settings.q_lora_rank, bias=dims.bias)
            self.q_a_layernorm = nn.RMSNorm(settings.q_lora_rank, eps=settings.norm_eps)
            self.q_b_proj = nn.Linear(settings.q_lora_rank, queries, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(config.n_embd, self.rank + self.rope, bias=dims.bias)
        self.kv_a_layernorm = nn.RMSNorm(self.rank, eps=settings.norm_eps)
        self.kv_b_proj = nn.Linear(self.rank, self.n_head * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(self.n_head * self.value, config.n_embd, bias=dims.bias)
        if spec.position.acts_on == "qk":
            self.position = slots.position(config)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> the same."""
        if settings.q_lora_rank is None:
            q = self.q_proj(x)
        if settings.q_lora_rank is not None:
            q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = q.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (B, H, T, D_nope + D_rope)
        c_kv, k_rope = self.kv_a_proj_with_mqa(x).split((self.rank, self.rope), dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(c_kv)).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
        k_nope, v = kv.split((self.nope, self.value), dim=-1)
        k_rope = k_rope[:, None]  # (B, 1, T, D_rope): one for all heads
        if spec.position.acts_on == "qk":
            q_nope, q_rope = q.split((self.nope, self.rope), dim=-1)
            q = torch.cat((q_nope, self.position(q_rope)), dim=-1)
            k_rope = self.position(k_rope)
        if dims.multipliers.scores != 1:
            q = q * dims.multipliers.scores
        if dims.dropout:
            dropout = dims.dropout if self.training else 0.0
        k = torch.cat((k_nope, k_rope.expand(-1, self.n_head, -1, -1)), dim=-1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=only(dims.dropout, dropout))
        return self.o_proj(y.transpose(1, 2).flatten(2))


class NativeSparseAttention(nn.Module):
    """Three attentions, each with keys and values of its own, added up by gates: over blocks that are compressed to one
    key and value each, over a few whole blocks that the first one finds important, and over a window."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_kv_head = settings.kv_heads(dims)
        self.groups = config.n_head // self.n_kv_head  # query heads that share a key
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.n_embd, config.n_head * config.head_dim, bias=dims.bias)
        self.k_proj = nn.Linear(config.n_embd, 3 * self.n_kv_head * config.head_dim, bias=dims.bias)
        self.v_proj = nn.Linear(config.n_embd, 3 * self.n_kv_head * config.head_dim, bias=dims.bias)
        self.g_proj = nn.Linear(config.n_embd, 3 * config.n_head, bias=dims.bias)
        self.o_proj = nn.Linear(config.n_head * config.head_dim, config.n_embd, bias=dims.bias)
        self.compress_k = Compression(config)
        self.compress_v = Compression(config)
        if spec.position.acts_on == "qk":
            self.position = slots.position(config)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> the same."""
        q, k, v = (
            each.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H, T, D)
            for each in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        if spec.position.acts_on == "qk":
            q, k = self.position(q), self.position(k)
        if dims.multipliers.scores != 1:
            q = q * dims.multipliers.scores
        (k_c, k_s, k_w), (v_c, v_s, v_w) = k.chunk(3, dim=1), v.chunk(3, dim=1)
        place = torch.arange(x.size(1), device=x.device)
        before = place <= place[:, None]  # (T, T): what a query may see of the keys

        # Compressed: a block of tokens is seen once all of them are.
        length, stride = settings.compression_block, settings.compression_stride
        starts = torch.arange(0, max(0, x.size(1) - length + 1), stride, device=x.device)
        weights = self.weights(q, self.compress_k(k_c, starts), starts + length <= place[:, None] + 1)
        compressed = self.mix(weights, self.compress_v(v_c, starts))

        # Selected: a block weighs what the compressed ones weigh that share stretches of `stride` tokens with it.
        size, n_selected = settings.selection_block, settings.n_selected
        block = torch.arange(-(-x.size(1) // size), device=x.device)
        shared = torch.minimum(starts[:, None] + length, (block + 1) * size) - torch.maximum(
            starts[:, None], block * size
        )
        importance = weights.detach() @ (shared.clamp_min(0) // stride).to(weights.dtype)  # (B, H, T, blocks)
        importance = importance.unflatten(1, (self.n_kv_head, -1)).sum(2)
        own = place[:, None] // size
        always = (block == 0) | (block == own) | (block == own - 1)
        ranked = importance.masked_fill(always, float("inf")).masked_fill(block > own, float("-inf"))
        best = ranked.argsort(dim=-1, descending=True, stable=True)[..., :n_selected]
        chosen = torch.zeros_like(ranked, dtype=torch.bool).scatter(-1, best, True)
        seen = (before & chosen[..., place // size]).repeat_interleave(self.groups, dim=1)  # (B, H, T, T)
        selected = self.mix(self.weights(q, k_s, seen), v_s)

        # Windowed: the last tokens.
        window = settings.window_size(dims)
        windowed = self.mix(self.weights(q, k_w, before & (place > place[:, None] - window)), v_w)

        gates = self.g_proj(x).sigmoid().unflatten(-1, (3, -1)).transpose(1, 3).unbind(2)  # (B, H, T) each
        y = sum(gate[..., None] * y for gate, y in zip(gates, (compressed, selected, windowed), strict=True))
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def weights(self, q: Tensor, k: Tensor, seen: Tensor) -> Tensor:
        """(B, H, T, S): 0 for what is not seen, also where nothing is."""
        scores = (q * self.head_dim**-0.5) @ k.repeat_interleave(self.groups, dim=1).transpose(-1, -2)
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        return scores.softmax(dim=-1).masked_fill(~seen, 0.0)

    def mix(self, weights: Tensor, v: Tensor) -> Tensor:
        if dims.dropout:
            weights = F.dropout(weights, dims.dropout, self.training)
        return weights @ v.repeat_interleave(self.groups, dim=1)


class Compression(nn.Module):
    """The vectors of a block, each with an embedding of its place, one after the other through a small network."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(settings.compression_block, config.head_dim))
        self.up_proj = nn.Linear(settings.compression_block * config.head_dim, config.head_dim, bias=False)
        self.down_proj = nn.Linear(config.head_dim, config.head_dim, bias=False)

    def forward(self, x: Tensor, starts: Tensor) -> Tensor:
        """x (B, H_kv, T, D), the blocks' starts (n,) -> (B, H_kv, n, D)."""
        places = torch.arange(len(self.place), device=x.device)
        blocks = x[:, :, starts[:, None] + places] + self.place  # (B, H_kv, n, tokens of a block, D)
        return self.down_proj(F.gelu(self.up_proj(blocks.flatten(-2))))
