"""Layer normalisation (Ba, Kiros and Hinton, 2016, arXiv:1607.06450).

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias          x, y (..., size); weight, bias (size,)

The bias is there if `model_args.bias` is.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.norm import LayerNormParams


class LayerNorm(nn.Module):
    roles: ClassVar = {"weight": "gain"}

    def __init__(self, params: LayerNormParams, dims: Dims, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if dims.bias else None
        self.eps = params.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        tensor.fill_(1.0 if name == "weight" else 0.0)
        return True
