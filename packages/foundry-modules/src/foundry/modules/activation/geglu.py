"""GEGLU (Shazeer, 2020, arXiv:2002.05202): y = gelu(gate) * up; all (..., F)."""

import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.activation import GEGLUParams


class GEGLU(nn.Module):
    def __init__(self, params: GEGLUParams, dims: Dims) -> None:
        super().__init__()
        self.approximate = params.approximate

    @property
    def nonlinearity(self) -> str:
        return "gelu" if self.approximate == "none" else "gelu_tanh"

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.gelu(gate, approximate=self.approximate) * up
