"""Parameter-efficient expert retrieval (He, 2024, arXiv:2407.04153): of very many tiny experts, each token finds the
few that suit it by product keys, exactly.

    y = sum over heads h, over the top k experts e of q_h:   g_e  V_e act(U_e x)

    q = norm(W_q x), one query per head, cut into d parts; an expert is a tuple of sub-keys (i_1, ..., i_d), one from
    each of d sets of n, N = n^d; its score is the sum of c_j[i_j] . q_j; its number is i_1 n^(d-1) + ... + i_d

All heads share the experts and the keys. The best k of N are found without looking at N: keep the best k after each
part. That is exact, since whatever is not among the best k of some parts has k better ones with the same remaining
sub-key. Of two sorted lists, only pairs (i, j) with (i + 1)(j + 1) <= k can be among the best k: 50 of 256 for k = 16.

U_e, V_e are `expert_width` rows of length C; a gated activation has a third, as `dense` has. With `sparse_gradients`,
the backward pass and the optimizer touch only the rows that were retrieved. Initially U x has variance 1.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foundry.core.contracts import Aux, Context, Dims
from foundry.kernels import Linear
from foundry.kernels.chosen_rows import add_rows, dot_rows
from foundry.modules.ffn import PEERParams, autocast
from foundry.modules.ffn.experts import load_of
from foundry.modules.ffn.query_norm import QueryBatchNorm
from foundry.modules.norm import RMSNormParams
from foundry.modules.norm.rmsnorm import RMSNorm

SPARSE_FROM = 65_536
"""Experts from which on gradients are row-sparse unless the experiment says otherwise."""


class PEER(nn.Module):
    roles: ClassVar = {"keys": "router", "gate_proj.weight": "neurons", "up_proj.weight": "neurons"}

    def __init__(self, params: PEERParams, dims: Dims, activation: nn.Module, gated: bool) -> None:
        super().__init__()
        self.params, self.n_embd, self.n_layer = params, dims.n_embd, dims.n_layer
        self.sparse = params.n_experts >= SPARSE_FROM if params.sparse_gradients is None else params.sparse_gradients
        self.query_proj = Linear(dims.n_embd, params.heads * params.key_dim, bias=dims.bias)
        self.query_norm = self._query_norm(dims)
        self.keys = nn.Parameter(torch.empty(params.product_dims, params.n_keys, params.key_dim // params.product_dims))
        self.gate_proj = self._table() if gated else None
        self.up_proj = self._table()
        self.down_proj = self._table()
        self.activation = activation
        row = sum(table.embedding_dim for table in (self.gate_proj, self.up_proj, self.down_proj) if table is not None)
        self.load = f"peer_{dims.layer}_load"
        self.inactive_parameters = max(0, params.n_experts - params.heads * params.top_k) * row

    def _table(self) -> nn.Embedding:
        """One row per expert. `sparse` is how torch, DDP and the optimizers know of row-sparse gradients."""
        return nn.Embedding(self.params.n_experts, self.params.expert_width * self.n_embd, sparse=self.sparse)

    def _query_norm(self, dims: Dims) -> nn.Module | None:
        match self.params.query_norm:
            case "rmsnorm":
                return RMSNorm(RMSNormParams(), dims, self.params.key_dim)
            case "batchnorm":
                return QueryBatchNorm(self.params.heads * self.params.key_dim, dims.layer)
            case "none":
                return None

    def forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        tokens = x.flatten(0, 1)
        counted = None if ctx.is_token is None else ctx.is_token.flatten()
        queries, aux = self._queries(tokens, counted)
        scores, ids = self.retrieve(queries)
        gates = scores.softmax(-1) if self.params.scoring == "softmax" else scores.sigmoid()
        ids, gates = ids.flatten(1), gates.flatten(1).to(x.dtype)  # all heads at once
        inner = [dot_rows(tokens, each.weight, ids, sparse=self.sparse) for each in self._inner()]
        hidden = self.activation(*inner) * gates[..., None]
        y = add_rows(hidden, self.down_proj.weight, ids, sparse=self.sparse)
        if self.training:
            aux = {**aux, self.load: load_of(ids, self.params.n_experts, counted)}
        return y.view_as(x), aux

    def _inner(self) -> list[nn.Embedding]:
        return [self.up_proj] if self.gate_proj is None else [self.gate_proj, self.up_proj]

    def _queries(self, tokens: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Aux]:
        """(N, C) -> (N, heads, key_dim); counted (N,) bool: those that statistics are taken of."""
        queries, aux = self.query_proj(tokens), {}
        if isinstance(self.query_norm, QueryBatchNorm):
            queries, aux = self.query_norm(queries, counted)
        queries = queries.unflatten(-1, (self.params.heads, -1))
        return self.query_norm(queries) if isinstance(self.query_norm, RMSNorm) else queries, aux

    def retrieve(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """queries (N, heads, key_dim) -> the scores, best first, and the numbers of each one's best k experts, both
        (N, heads, k). In fp32 at least, also under autocast: bf16 has too few digits to tell experts apart."""
        dtype = torch.promote_types(queries.dtype, torch.float32)
        parts, keys = queries.to(dtype).unflatten(-1, (self.params.product_dims, -1)), self.keys.to(dtype)
        ids = self._best(parts, keys)
        # The scores of the best, once more: their gradient is that of k keys, and no gradient is as long as all keys.
        scores, unit = torch.zeros_like(ids, dtype=dtype), self.params.n_experts
        for part, of_part in zip(parts.unbind(2), keys, strict=True):
            unit //= self.params.n_keys
            sub_keys = ids // unit % self.params.n_keys
            scores = scores + dot_rows(part.flatten(0, 1), of_part, sub_keys.flatten(0, 1)).view_as(scores)
        return scores, ids

    @torch.no_grad()
    def _best(self, parts: Tensor, keys: Tensor) -> Tensor:
        """parts (N, heads, d, key_dim / d), keys (d, n, key_dim / d) -> (N, heads, k)."""
        with autocast.left_out(parts):
            of_parts = torch.einsum("nhdk,dik->dnhi", parts, keys)
        k, n = self.params.top_k, self.params.n_keys
        scores, ids = of_parts[0].topk(min(k, n), dim=-1)
        for of_part in of_parts[1:]:
            next_scores, next_ids = of_part.topk(min(k, n), dim=-1)
            left, right = _possible_pairs(scores.size(-1), next_scores.size(-1), k, ids.device)
            sums = scores[..., left] + next_scores[..., right]
            scores, chosen = sums.topk(min(k, sums.size(-1)), dim=-1)
            ids = ids.gather(-1, left[chosen]) * n + next_ids.gather(-1, right[chosen])
        return ids

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        stds = {
            "keys": self.params.key_dim**-0.5,
            "gate_proj.weight": self.n_embd**-0.5,
            "up_proj.weight": self.n_embd**-0.5,
            "down_proj.weight": (self.n_embd * self.params.expert_width * 2 * self.n_layer) ** -0.5,
        }
        if name not in stds:
            return False
        tensor.normal_(0.0, stds[name], generator=generator)
        return True


def _possible_pairs(n_left: int, n_right: int, k: int, device: Any) -> tuple[Tensor, Tensor]:
    """The positions in two sorted lists whose sum may be among the best k."""
    pairs = [(i, j) for i in range(n_left) for j in range(min(n_right, k // (i + 1)))]
    left, right = torch.tensor(pairs, device=device).unbind(1)
    return left, right
