"""CompleteP (Dey et al., 2025, arXiv:2505.01618, table 1): muP, with depth. Relative to a base of n_layer / L layers:

    x <- x + L^-alpha f(norm(x)),    the learning rate of everything in a layer: times L^(alpha - 1)

alpha = 1 is CompleteP, alpha = 1/2 depth-muP (Yang et al., 2023, arXiv:2310.02244). The projections that end a branch
keep their initial 1 / sqrt(2 n_layer), as in the authors' code; their rule for Adam's eps is left out.
"""

from foundry.core.contracts import Dims, Update, Weight
from foundry.modules.scaling import CompletePParams
from foundry.modules.scaling.mup import MuP


class CompleteP(MuP):
    def __init__(self, params: CompletePParams, dims: Dims, base: Dims) -> None:
        super().__init__(params, dims, base)
        self.depth, self.alpha = dims.n_layer / base.n_layer, params.alpha
        self.multipliers = self.multipliers._replace(branch=self.depth**-self.alpha)

    def lr_factor(self, weight: Weight, update: Update) -> float:
        depth = self.depth ** (self.alpha - 1) if weight.in_layer else 1.0
        return depth * super().lr_factor(weight, update)
