"""Post-norm of the sum, as in the original transformer (Vaswani et al., 2017, arXiv:1706.03762, 3.1).

x <- norm(x + f(x))          x (B, T, C)
"""

from torch import Tensor, nn

from foundry.core.contracts import Dims, ResidualParams
from foundry.modules.residual.branch import Branched


class PostAdd(Branched):
    def __init__(self, params: ResidualParams, dims: Dims) -> None:
        super().__init__(dims)

    def enter(self, x: Tensor, norm: nn.Module) -> Tensor:
        return x

    def leave(self, x: Tensor, y: Tensor, norm: nn.Module, post_norm: nn.Module | None) -> Tensor:
        return norm(x + self.branch(y))
