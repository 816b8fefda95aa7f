"""Squared ReLU (So et al., 2021, Primer, arXiv:2109.08668): y = max(x, 0)^2."""

import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.activation import PlainParams


class ReLUSquared(nn.Module):
    nonlinearity = "relu2"

    def __init__(self, params: PlainParams, dims: Dims) -> None:
        super().__init__()

    def forward(self, up: Tensor) -> Tensor:
        return F.relu(up).square()
