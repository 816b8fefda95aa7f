"""How much seeds alone change the metric of a baseline, and so which gains over it a sweep can find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from foundry.lab.decide.noise import Spread
from foundry.lab.decide.power import characteristic, smallest_decidable
from foundry.lab.ledger.records import Noise
from foundry.lab.sweep.plan import Plan

GAINS = (0.005, 0.01, 0.02)
"""True gains whose power is reported, in the metric's unit."""


@dataclass(frozen=True)
class MeasuredNoise:
    """What `Lab.noise` has measured, and all that is known where it holds."""

    plan: Plan  # of the baseline alone
    spread: Spread  # of these runs
    known: Noise  # of every run so far

    def to_json(self) -> dict[str, Any]:
        """What was measured, and what a sweep can find with that: `delta`, the gain that is looked for; the smallest
        true gain that 80 % of sweeps find; and of each of GAINS how probably it is found, with how many pairs."""
        told, test = self.plan.told, self.plan.question.rule.test(self.known.sigma, self.known.df)
        found = {gain: characteristic(test, gain) for gain in GAINS}
        return {
            "metric": self.known.metric,
            "mean": told(self.spread.mean),
            "scores": [told(score) for score in self.spread.scores],
            "failures": list(self.spread.failures),
            "runs": self.known.runs,
            "sigma": self.known.sigma,
            "df": self.known.df,
            "delta": test.delta,
            "smallest_decidable": smallest_decidable(test),
            "power": [{"gain": gain, "power": each.promoted, "pairs": each.pairs} for gain, each in found.items()],
        }
