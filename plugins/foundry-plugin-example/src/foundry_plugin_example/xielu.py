"""xIELU (Huang and Schlag, 2024, arXiv:2411.13010): the integral of an expanded ELU.

    y = a_p x^2 + beta x                        for x > 0
    y = a_n (e^x - 1 - x) + beta x              for x <= 0

with trained a_p = softplus(.) > 0 and a_n = beta + softplus(.) > beta. All (..., F); the two scalars are 0-D.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry_plugin_example.params import XIELUParams


class XIELU(nn.Module):
    roles: ClassVar = {"alpha_p": "gain", "alpha_n": "gain"}

    def __init__(self, params: XIELUParams, dims: Dims) -> None:
        super().__init__()
        self.params = params
        self.alpha_p = nn.Parameter(torch.empty(()))
        self.alpha_n = nn.Parameter(torch.empty(()))

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        """Both curvatures start at `params.alpha`: the inverse of softplus is log(e^y - 1)."""
        offset = self.params.beta if name == "alpha_n" else 0.0
        tensor.fill_(math.log(math.expm1(self.params.alpha - offset)))
        return True

    def forward(self, up: Tensor) -> Tensor:
        a_p = F.softplus(self.alpha_p)
        a_n = self.params.beta + F.softplus(self.alpha_n)
        # expm1 of a positive value may overflow, and inf * 0 would poison the gradient of the branch not taken.
        below = torch.expm1(up.clamp(max=0)) - up
        return torch.where(up > 0, a_p * up.square(), a_n * below) + self.params.beta * up
