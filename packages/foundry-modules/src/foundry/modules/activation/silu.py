"""The sigmoid linear unit (Elfwing et al., 2017, arXiv:1702.03118): y = x * sigmoid(x)."""

import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.activation import PlainParams


class SiLU(nn.Module):
    nonlinearity = "silu"

    def __init__(self, params: PlainParams, dims: Dims) -> None:
        super().__init__()

    def forward(self, up: Tensor) -> Tensor:
        return F.silu(up)
