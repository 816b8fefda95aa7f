"""Root mean square layer normalisation (Zhang and Sennrich, 2019, arXiv:1910.07467).

y = x / sqrt(mean(x^2) + eps) * weight          x, y (..., size); weight (size,)
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.kernels import rms_norm
from foundry.modules.norm import RMSNormParams


class RMSNorm(nn.Module):
    roles: ClassVar = {"weight": "gain"}

    def __init__(self, params: RMSNormParams, dims: Dims, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = params.eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        tensor.fill_(1.0)
        return True
