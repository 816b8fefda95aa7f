"""A constant learning rate after the warm-up."""

from foundry.modules.schedule.warmup import Warmup


class Constant(Warmup):
    def after(self, share: float) -> float:
        return 1.0
