"""A mixture of experts: a router chooses, for each token, a few of many dense networks. No token is dropped.

    y = routed_scaling_factor * sum over the top k of w_i E_i(x)  +  the shared experts(x)

    s = softmax(W_gate x) or sigmoid(W_gate x), in fp32; the top k by s + b; w = s, or s / sum of the chosen s

Mixtral (Jiang et al., 2024, arXiv:2401.04088): softmax, normalised. DeepSeek-V3 (2024, arXiv:2412.19437): sigmoid,
normalised, experts within the best groups, a group's score being the sum of its best two.

Two ways to keep the load even. The loss of the Switch transformer (Fedus et al., 2021, arXiv:2101.03961) as Mixtral
has it: E * sum_i f_i p_i, with f_i the load per token of expert i and p_i its mean score; it is top_k when all are
equal. It is taken over each row by itself, as in DeepSeek-V3 (eq. 17 to 20; there it is divided by top_k), without what
is no token: over a micro-batch it would be another loss for each way to cut a batch. So it asks every text to use all
experts; where they are to specialise in texts (Qiu et al., 2025, arXiv:2501.11873), use the other way.

Without a loss (Wang et al., 2024, arXiv:2408.15664): after each optimizer step, b_i rises by `bias_update_rate` where
expert i had less than the mean load of all micro-batches and ranks, or falls.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from foundry.core.contracts import Aux, Context, Dims
from foundry.kernels import linear
from foundry.modules.ffn import DenseParams, MoEParams, autocast
from foundry.modules.ffn.dense import Dense
from foundry.modules.ffn.experts import Experts, load_of


class Router(nn.Module):
    """Which experts a token uses, and with what weights. A token's choice depends on nothing but itself."""

    roles: ClassVar = {"weight": "router"}

    def __init__(self, params: MoEParams, n_embd: int) -> None:
        super().__init__()
        self.params = params
        self.weight = nn.Parameter(torch.empty(params.n_experts, n_embd))
        self.e_score_correction_bias: Tensor | None
        bias = None if params.bias_update_rate is None else torch.zeros(params.n_experts)
        self.register_buffer("e_score_correction_bias", bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, C) -> scores (N, E), chosen experts (N, K), their weights (N, K); scores and weights in fp32 (or 64),
        also under autocast: bf16 has too few digits to tell experts apart."""
        params, dtype = self.params, torch.promote_types(x.dtype, torch.float32)
        with autocast.left_out(x):
            logits = linear(x.to(dtype), self.weight.to(dtype))
        scores = logits.softmax(-1) if params.scoring == "softmax" else logits.sigmoid()
        preference = scores.detach()
        if self.e_score_correction_bias is not None:
            preference = preference + self.e_score_correction_bias
        if params.top_k_groups < params.n_groups:
            preference = self._within_groups(preference)
        chosen = preference.topk(params.top_k, dim=-1).indices
        weights = scores.gather(1, chosen)
        if params.normalize_top_k:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)  # sigmoids may all be 0
        return scores, chosen, weights * params.routed_scaling_factor

    def _within_groups(self, preference: Tensor) -> Tensor:
        """(N, E) -> the same, minus infinity outside of each token's best groups."""
        groups = preference.unflatten(-1, (self.params.n_groups, -1))
        best = groups.topk(2, dim=-1).values.sum(-1).topk(self.params.top_k_groups, dim=-1).indices
        kept = torch.zeros(groups.shape[:2], dtype=torch.bool, device=groups.device).scatter(1, best, True)
        return groups.masked_fill(~kept[..., None], float("-inf")).flatten(1)

    def init_buffers(self) -> None:
        if self.e_score_correction_bias is not None:
            self.e_score_correction_bias.zero_()


class MixtureOfExperts(nn.Module):
    def __init__(self, params: MoEParams, dims: Dims, activation: nn.Module, gated: bool) -> None:
        super().__init__()
        self.params = params
        hidden = params.width(dims, gated)
        self.gate = Router(params, dims.n_embd)
        self.experts = Experts(params.n_experts, dims.n_embd, hidden, activation, gated, dims.bias)
        self.shared_experts: Dense | None = None
        if params.n_shared_experts:
            shared = DenseParams(hidden=hidden * params.n_shared_experts)
            self.shared_experts = Dense(shared, dims, activation, gated)
        self.residual_std = dims.residual_std
        self.load = f"moe_{dims.layer}_load"
        self.load_count = f"moe_load_{dims.layer}_count"
        size = sum(parameter.numel() for parameter in self.experts.parameters()) // params.n_experts
        self.inactive_parameters = (params.n_experts - params.top_k) * size  # per token

    def forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        tokens = x.flatten(0, 1)
        scores, chosen, weights = self.gate(tokens)
        y = self.experts(tokens, chosen, load_of(chosen, self.params.n_experts))
        y = torch.einsum("nkc,nk->nc", y, weights.to(x.dtype)).view_as(x)
        if self.shared_experts is not None:
            y = y + ctx.planned(self.shared_experts)(x, ctx)[0]
        if not self.training:
            return y, {}
        scores, chosen = (each.unflatten(0, x.shape[:2]) for each in (scores, chosen))
        return y, self._report(scores, chosen, ctx.is_token)

    def _report(self, scores: Tensor, chosen: Tensor, is_token: Tensor | None) -> Aux:
        """What is said of scores (B, T, E) and choices (B, T, K): the load (E,), and the loss of each row (B,). What
        fills up a row went through the experts, and is in no figure."""
        loads = load_of(chosen, self.params.n_experts, is_token)
        report = {self.load: loads.sum(0)}
        if self.params.bias_update_rate:
            report[self.load_count] = report[self.load]
        if self.params.aux_loss:
            if self.params.scoring == "sigmoid":
                scores = scores / (scores.sum(-1, keepdim=True) + 1e-20)
            n_tokens: int | Tensor = scores.size(1)
            if is_token is not None:
                scores, n_tokens = scores.masked_fill(~is_token[..., None], 0.0), is_token.sum(1, True).clamp_min(1)
            balance = ((loads / n_tokens) * (scores.sum(1) / n_tokens)).sum(-1) * self.params.n_experts
            report["moe_balance_loss"] = self.params.aux_loss * balance
        return report

    @torch.no_grad()
    def after_step(self, counts: Mapping[str, Tensor]) -> None:
        """Move the biases against the load of a whole optimizer step."""
        if self.params.bias_update_rate:
            load = counts[self.load_count].double()
            bias = self.gate.e_score_correction_bias
            assert bias is not None
            bias += self.params.bias_update_rate * (load.mean() - load).sign().to(bias.dtype)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        if name != "experts.down_proj.weight":
            return False
        tensor.normal_(0.0, self.residual_std, generator=generator)
        return True
