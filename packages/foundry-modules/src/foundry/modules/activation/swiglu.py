"""SwiGLU (Shazeer, 2020, arXiv:2002.05202): y = silu(gate) * up, silu(x) = x * sigmoid(x); all (..., F)."""

import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.activation import GatedParams


class SwiGLU(nn.Module):
    nonlinearity = "silu"

    def __init__(self, params: GatedParams, dims: Dims) -> None:
        super().__init__()

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up
