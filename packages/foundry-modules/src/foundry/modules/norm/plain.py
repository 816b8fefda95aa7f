"""Plain texts of norms, see `foundry.core.contracts.plain_text`. Built as `target(size)`."""

import torch
from torch import Tensor, nn

from foundry.core.contracts.plain_text import dims, settings


def rmsnorm(size: int) -> nn.Module:
    return nn.RMSNorm(size, eps=settings.eps)


def layernorm(size: int) -> nn.Module:
    return nn.LayerNorm(size, eps=settings.eps, bias=dims.bias)


class DyT(nn.Module):
    """tanh(alpha x) * weight: a token's scale is bounded, not normalised."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), settings.alpha))
        self.weight = nn.Parameter(torch.ones(size))
        if dims.bias:
            self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        if dims.bias:
            return torch.addcmul(self.bias, torch.tanh(self.alpha * x), self.weight)
        else:
            return torch.tanh(self.alpha * x) * self.weight
