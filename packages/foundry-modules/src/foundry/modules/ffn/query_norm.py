"""Batch normalisation of queries (Ioffe and Szegedy, 2015, arXiv:1502.03167), with the statistics of all ranks.

    y = (q - mean) / sqrt(var + eps) * weight + bias             q, y (N, features)

In training, mean and var are those of the step's tokens on all ranks, padding left out: a token's result then depends
on every other token, later ones too, and no batch is cut into micro-batches. In evaluation they are running means, so
that it does not. The running means follow the statistics of whole optimizer steps, once per step, whatever was computed
twice or evaluated between.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as collectives
from torch import Tensor, nn

from foundry.core.contracts import Aux


class QueryBatchNorm(nn.Module):
    roles: ClassVar = {"weight": "gain"}
    reads_whole_batch = True
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, layer: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.eps, self.momentum = eps, momentum
        self.sums_count = f"peer_query_sums_{layer}_count"

    def forward(self, q: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Aux]:
        """q (N, features), of which the counted (N,) bool are tokens; None: all of them."""
        if not self.training:
            return self._scaled(q - self.running_mean, self.running_var), {}
        q32 = q.float() if q.dtype == torch.bfloat16 else q
        n = q32.new_full((1,), q32.size(0)) if counted is None else counted.sum(0, keepdim=True).to(q32.dtype)
        total = _over_ranks(torch.cat([_only(q32, counted).sum(0), n]))
        n_all = total[-1].clamp_min(1)
        centred = q32 - total[:-1] / n_all
        var = _over_ranks(_only(centred, counted).square().sum(0)) / n_all
        seen = _only(q32.detach(), counted)
        sums = torch.stack([n.expand(seen.size(1)), seen.sum(0), seen.square().sum(0)])
        return self._scaled(centred, var).to(q.dtype), {self.sums_count: sums}

    def _scaled(self, centred: Tensor, var: Tensor) -> Tensor:
        return centred * (var + self.eps).rsqrt() * self.weight + self.bias

    @torch.no_grad()
    def after_step(self, counts: Mapping[str, Tensor]) -> None:
        n, total, squares = counts[self.sums_count].double()
        mean = total / n
        var = (squares / n - mean.square()).clamp(min=0) * n / (n - 1).clamp(min=1)  # unbiased, as torch has it
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(var.to(self.running_var), self.momentum)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        tensor.fill_(1.0 if name == "weight" else 0.0)
        return True

    def init_buffers(self) -> None:
        self.running_mean.zero_()
        self.running_var.fill_(1.0)


def _only(rows: Tensor, counted: Tensor | None) -> Tensor:
    """rows (N, features), 0 where they are not counted."""
    return rows if counted is None else rows.masked_fill(~counted[:, None], 0.0)


def _over_ranks(own: Tensor) -> Tensor:
    """The sum over ranks, differentiable; every rank must call it."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        return collectives.all_reduce(own)
    return own
