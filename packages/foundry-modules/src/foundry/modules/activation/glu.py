"""The gated linear unit (Dauphin et al., 2016, arXiv:1612.08083): y = sigmoid(gate) * up; all (..., F)."""

import torch
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.activation import GatedParams


class GLU(nn.Module):
    nonlinearity = "sigmoid"

    def __init__(self, params: GatedParams, dims: Dims) -> None:
        super().__init__()

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return torch.sigmoid(gate) * up
