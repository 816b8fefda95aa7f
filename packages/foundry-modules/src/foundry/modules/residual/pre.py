"""Pre-norm residuals (GPT-2; Xiong et al., 2020, arXiv:2002.04745).

x <- x + f(norm(x))          x (B, T, C)
"""

from torch import Tensor, nn

from foundry.core.contracts import Dims, ResidualParams
from foundry.modules.residual.branch import Branched


class Pre(Branched):
    def __init__(self, params: ResidualParams, dims: Dims) -> None:
        super().__init__(dims)

    def enter(self, x: Tensor, norm: nn.Module) -> Tensor:
        return norm(x)

    def leave(self, x: Tensor, y: Tensor, norm: nn.Module, post_norm: nn.Module | None) -> Tensor:
        return x + self.branch(y)
