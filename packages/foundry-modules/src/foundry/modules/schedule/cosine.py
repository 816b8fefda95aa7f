"""Cosine annealing (Loshchilov and Hutter, 2016, arXiv:1608.03983).

min_factor + (1 - min_factor) (1 + cos(pi s)) / 2,     s = the share of the budget after the warm-up
"""

import math

from foundry.modules.schedule import CosineParams
from foundry.modules.schedule.warmup import Warmup


class Cosine(Warmup):
    def __init__(self, params: CosineParams) -> None:
        super().__init__(params)
        self.min_factor = params.min_factor

    def after(self, share: float) -> float:
        return self.min_factor + (1 - self.min_factor) * (1 + math.cos(math.pi * share)) / 2
