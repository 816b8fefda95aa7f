"""No rule: every number means the same at every size."""

from foundry.core.contracts import UNSCALED, Dims, Update, Weight
from foundry.modules.scaling import NoneParams


class NoScaling:
    def __init__(self, params: NoneParams, dims: Dims, base: Dims) -> None:
        self.multipliers = UNSCALED

    def init_factor(self, weight: Weight) -> float:
        return 1.0

    def lr_factor(self, weight: Weight, update: Update) -> float:
        return 1.0
