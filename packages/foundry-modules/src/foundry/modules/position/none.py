"""No positions (Kazemnejad et al., 2023, arXiv:2305.19466): the causal mask alone breaks the symmetry of the tokens."""

from torch import nn

from foundry.core.contracts import Dims
from foundry.modules.position import NoPositionParams


class NoPosition(nn.Module):
    def __init__(self, params: NoPositionParams, dims: Dims) -> None:
        super().__init__()
