"""Warm-up, stable, decay (Hu et al., 2024, MiniCPM, arXiv:2404.06395), with a linear decay (arXiv:2405.18392).

1, and in the last `decay` of the budget a straight line down to min_factor.
"""

from foundry.modules.schedule import WSDParams
from foundry.modules.schedule.warmup import Warmup


class WSD(Warmup):
    def __init__(self, params: WSDParams) -> None:
        super().__init__(params)
        self.min_factor, self.decay = params.min_factor, params.decay

    def __call__(self, step: int, progress: float) -> float:
        left = min(1.0, (1.0 - progress) / self.decay)  # of the decay
        return min(super().__call__(step, progress), self.min_factor + (1 - self.min_factor) * left)

    def after(self, share: float) -> float:
        return 1.0
