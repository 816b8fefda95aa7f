"""A norm on either side of a sublayer (CogView, Ding et al., 2021, arXiv:2105.13290; Gemma 2, arXiv:2408.00118).

x <- x + post_norm(f(norm(x)))          x (B, T, C)
"""

from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.residual import SandwichParams
from foundry.modules.residual.branch import Branched


class Sandwich(Branched):
    def __init__(self, params: SandwichParams, dims: Dims) -> None:
        super().__init__(dims)

    def enter(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x)

    def leave(self, x: Tensor, y: Tensor, norm: nn.Module, post_norm: nn.Module | None) -> Tensor:
        assert post_norm is not None  # the params ask for it
        return x + self.branch(post_norm(y))
