"""Plain texts of feed-forwards, see `foundry.core.contracts.plain_text`."""

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts.plain_text import Config, dims, only, settings, slots, spec


def dense(config: Config) -> nn.Module:
    return Dense(config, settings.width(dims, spec.activation.gated))


class Dense(nn.Module):
    """Each position by itself: up to a hidden layer, and down again."""

    def __init__(self, config: Config, hidden: int) -> None:
        super().__init__()
        if spec.activation.gated:
            self.gate_proj = nn.Linear(config.n_embd, hidden, bias=dims.bias)
        self.up_proj = nn.Linear(config.n_embd, hidden, bias=dims.bias)
        self.down_proj = nn.Linear(hidden, config.n_embd, bias=dims.bias)

    def forward(
        self, x: Tensor, mix: Annotated[Callable[[Tensor], Tensor], only("ffn" in spec.canon.inside())]
    ) -> Tensor:
        if spec.activation.gated and "ffn" in spec.canon.inside():
            gate, up = mix(torch.cat((self.gate_proj(x), self.up_proj(x)), dim=-1)).chunk(2, dim=-1)
            return self.down_proj(slots.activation(gate, up))
        elif spec.activation.gated:
            return self.down_proj(slots.activation(self.gate_proj(x), self.up_proj(x)))
        elif "ffn" in spec.canon.inside():
            return self.down_proj(slots.activation(mix(self.up_proj(x))))
        else:
            return self.down_proj(slots.activation(self.up_proj(x)))


class MixtureOfExperts(nn.Module):
    """A router chooses, for each token, a few of many dense networks, and weighs what they make of it.

    What keeps their load even in training, a loss or biases that move, is not here.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        if settings.n_shared_experts:  # which every token uses, as one network so much wider
            self.shared_experts = Dense(config, settings.n_shared_experts * settings.width(dims, spec.activation.gated))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> the same."""
        tokens = x.flatten(0, 1)
        chosen, weights = self.gate(tokens)
        y = self.experts(tokens, chosen, weights).view_as(x)
        if settings.n_shared_experts:
            y = y + self.shared_experts(x)
        return y


class Router(nn.Module):
    """Which experts a token uses, and with what weights."""

    if settings.bias_update_rate is not None:
        e_score_correction_bias: Tensor  # (experts,)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(settings.n_experts, config.n_embd))
        if settings.bias_update_rate is not None:  # it balances the load: it counts where experts are chosen only
            self.register_buffer("e_score_correction_bias", torch.zeros(settings.n_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, C) -> the experts of each token and their weights, (N, K) each."""
        if settings.scoring == "softmax":
            scores = F.linear(x, self.weight).softmax(-1)
        if settings.scoring == "sigmoid":
            scores = F.linear(x, self.weight).sigmoid()
        preference = scores.detach()
        if settings.bias_update_rate is not None:
            preference = preference + self.e_score_correction_bias
        if settings.top_k_groups < settings.n_groups:
            groups = preference.unflatten(-1, (settings.n_groups, -1))  # a group's score is that of its best two
            best = groups.topk(2, dim=-1).values.sum(-1).topk(settings.top_k_groups, dim=-1).indices
            kept = torch.zeros(groups.shape[:2], dtype=torch.bool, device=x.device).scatter(1, best, True)
            preference = groups.masked_fill(~kept[..., None], float("-inf")).flatten(1)
        chosen = preference.topk(settings.top_k, dim=-1).indices
        weights = scores.gather(1, chosen)
        if settings.normalize_top_k:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        if settings.routed_scaling_factor != 1:
            weights = weights * settings.routed_scaling_factor
        return chosen, weights


class Experts(nn.Module):
    """Dense networks side by side, each for its own tokens."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        n_experts, hidden = settings.n_experts, settings.width(dims, spec.activation.gated)
        if spec.activation.gated:
            self.gate_proj = ExpertLinear(n_experts, config.n_embd, hidden)
        self.up_proj = ExpertLinear(n_experts, config.n_embd, hidden)
        self.down_proj = ExpertLinear(n_experts, hidden, config.n_embd)

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """x (N, C), its experts and their weights (N, K) -> (N, C)."""
        y = torch.zeros_like(x)
        for expert in range(settings.n_experts):
            token, place = torch.where(chosen == expert)
            rows = x[token]
            if spec.activation.gated:
                hidden = slots.activation(self.gate_proj(rows, expert), self.up_proj(rows, expert))
            if not spec.activation.gated:
                hidden = slots.activation(self.up_proj(rows, expert))
            y = y.index_add(0, token, weights[token, place, None] * self.down_proj(hidden, expert))
        return y


class ExpertLinear(nn.Module):
    """A linear map for each expert."""

    def __init__(self, n_experts: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_experts, n_out, n_in))
        if dims.bias:
            self.bias = nn.Parameter(torch.zeros(n_experts, n_out))

    def forward(self, x: Tensor, expert: int) -> Tensor:
        if dims.bias:
            return F.linear(x, self.weight[expert], self.bias[expert])
        else:
            return F.linear(x, self.weight[expert])


class PEER(nn.Module):
    """Of very many tiny experts each token finds, by product keys, the few that suit it.

    The key of an expert is a tuple of sub-keys, one from each part; its score is the sum of their products with the
    parts of a query. What is not among the best k of some parts has k better ones with the same remaining sub-keys, so
    the best k are kept after each part.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.top_k = settings.top_k
        self.heads = settings.heads
        self.query_proj = nn.Linear(config.n_embd, self.heads * settings.key_dim, bias=dims.bias)
        if settings.query_norm == "rmsnorm":
            self.query_norm: nn.Module = nn.RMSNorm(settings.key_dim, eps=1e-5)
        if settings.query_norm == "batchnorm":
            self.query_norm = QueryBatchNorm(self.heads * settings.key_dim)
        parts = settings.product_dims  # of a key
        self.keys = nn.Parameter(torch.zeros(parts, settings.n_keys, settings.key_dim // parts))
        if spec.activation.gated:
            self.gate_proj = nn.Embedding(settings.n_experts, settings.expert_width * config.n_embd)
        self.up_proj = nn.Embedding(settings.n_experts, settings.expert_width * config.n_embd)
        self.down_proj = nn.Embedding(settings.n_experts, settings.expert_width * config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> the same."""
        tokens = x.flatten(0, 1)
        queries = self.query_proj(tokens)
        if settings.query_norm == "batchnorm":
            queries = self.query_norm(queries)
        queries = queries.unflatten(-1, (self.heads, -1))
        if settings.query_norm == "rmsnorm":
            queries = self.query_norm(queries)
        scores, experts = self.retrieve(queries)
        if settings.scoring == "softmax":
            gates = scores.softmax(-1).flatten(1)
        if settings.scoring == "sigmoid":
            gates = scores.sigmoid().flatten(1)
        if spec.activation.gated:
            hidden = slots.activation(
                self.inner(self.gate_proj, tokens, experts), self.inner(self.up_proj, tokens, experts)
            )
        if not spec.activation.gated:
            hidden = slots.activation(self.inner(self.up_proj, tokens, experts))
        down = self.down_proj(experts.flatten(1)).unflatten(-1, (hidden.size(-1), -1))  # (N, chosen, neurons, C)
        return torch.einsum("njm,njmc->nc", hidden * gates[..., None], down).view_as(x)

    def inner(self, table: nn.Embedding, tokens: Tensor, experts: Tensor) -> Tensor:
        """Tokens (N, C) and the experts of each -> (N, chosen, neurons), the products of both."""
        rows = table(experts.flatten(1)).unflatten(-1, (-1, tokens.size(-1)))
        return torch.einsum("nc,njmc->njm", tokens, rows)

    def retrieve(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """queries (N, heads, key_dim) -> the scores and the numbers of each one's best experts, (N, heads, k) each."""
        parts = queries.unflatten(-1, (len(self.keys), -1))
        products = torch.einsum("nhdk,dik->dnhi", parts, self.keys)
        scores, experts = products[0].topk(min(self.top_k, products.size(-1)), dim=-1)
        for product in products[1:]:
            next_scores, next_keys = product.topk(min(self.top_k, products.size(-1)), dim=-1)
            sums = (scores[..., None] + next_scores[..., None, :]).flatten(-2)  # of all pairs
            scores, pair = sums.topk(min(self.top_k, sums.size(-1)), dim=-1)
            left, right = pair // next_keys.size(-1), pair % next_keys.size(-1)
            experts = experts.gather(-1, left) * products.size(-1) + next_keys.gather(-1, right)
        return scores, experts


class QueryBatchNorm(nn.Module):
    """Batch normalisation; evaluated with running means, so that no token depends on the others."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, queries: Tensor) -> Tensor:
        return F.batch_norm(queries, self.running_mean, self.running_var, self.weight, self.bias, self.training)
