"""Dynamic tanh in place of a norm (Zhu et al., 2025, arXiv:2503.10622).

    y = tanh(alpha x) * weight + bias          x, y (..., size); alpha (1,); weight, bias (size,)

It computes no statistics: a token's scale is bounded, not normalised. So it does not bring the embeddings, of standard
deviation 0.02, to 1 as a norm would: a model with dyt has a learned factor on them, which starts at sqrt(n_embd). The
bias is there if `model_args.bias` is.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.norm import DyTParams


class DyT(nn.Module):
    roles: ClassVar = {"alpha": "gain", "weight": "gain"}

    def __init__(self, params: DyTParams, dims: Dims, size: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1))
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size)) if dims.bias else None
        self.initial_alpha = params.alpha

    def forward(self, x: Tensor) -> Tensor:
        bounded = torch.tanh(self.alpha * x)
        return bounded * self.weight if self.bias is None else torch.addcmul(self.bias, bounded, self.weight)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        tensor.fill_({"alpha": self.initial_alpha, "weight": 1.0, "bias": 0.0}[name])
        return True
