"""The rectified linear unit, as in the first transformer (Vaswani et al., 2017, arXiv:1706.03762): y = max(x, 0)."""

import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.activation import PlainParams


class ReLU(nn.Module):
    nonlinearity = "relu"

    def __init__(self, params: PlainParams, dims: Dims) -> None:
        super().__init__()

    def forward(self, up: Tensor) -> Tensor:
        return F.relu(up)
