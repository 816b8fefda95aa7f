"""Linear decay: 1 - (1 - min_factor) s, where s is the share of the budget after the warm-up."""

from foundry.modules.schedule import DecayParams
from foundry.modules.schedule.warmup import Warmup


class Linear(Warmup):
    def __init__(self, params: DecayParams) -> None:
        super().__init__(params)
        self.min_factor = params.min_factor

    def after(self, share: float) -> float:
        return 1 - (1 - self.min_factor) * share
