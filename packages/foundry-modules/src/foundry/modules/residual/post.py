"""Post-norm inside the residual (OLMo 2, 2024, arXiv:2501.00656, 3.2).

x <- x + norm(f(x))          x (B, T, C)
"""

from torch import Tensor, nn

from foundry.core.contracts import Dims, ResidualParams
from foundry.modules.residual.branch import Branched


class Post(Branched):
    def __init__(self, params: ResidualParams, dims: Dims) -> None:
        super().__init__(dims)

    def enter(self, x: Tensor, norm: nn.Module) -> Tensor:
        return x

    def leave(self, x: Tensor, y: Tensor, norm: nn.Module, post_norm: nn.Module | None) -> Tensor:
        return x + self.branch(norm(y))
