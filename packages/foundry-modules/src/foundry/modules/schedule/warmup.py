"""The linear rise at the start of every schedule."""

from foundry.modules.schedule import WarmupParams


class Warmup:
    """Rises linearly for `warmup` steps, then follows `after(share)`, share in [0, 1] of what is left of the budget."""

    def __init__(self, params: WarmupParams) -> None:
        self.warmup = params.warmup

    def __call__(self, step: int, progress: float) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        # The share of the budget that the warm-up took, given that steps cost alike.
        start = progress * self.warmup / step if step else 0.0
        return self.after(min(1.0, (progress - start) / (1.0 - start)) if start < 1.0 else 1.0)

    def after(self, share: float) -> float:
        """The factor when this share of the budget after the warm-up is used up."""
        raise NotImplementedError
