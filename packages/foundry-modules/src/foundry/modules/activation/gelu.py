"""The Gaussian error linear unit (Hendrycks and Gimpel, 2016, arXiv:1606.08415).

y = x * Phi(x)          or, approximate: tanh,          y = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
"""

import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.activation import GELUParams


class GELU(nn.Module):
    def __init__(self, params: GELUParams, dims: Dims) -> None:
        super().__init__()
        self.approximate = params.approximate

    @property
    def nonlinearity(self) -> str:
        return "gelu" if self.approximate == "none" else "gelu_tanh"

    def forward(self, up: Tensor) -> Tensor:
        return F.gelu(up, approximate=self.approximate)
