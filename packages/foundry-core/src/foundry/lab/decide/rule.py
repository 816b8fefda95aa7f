"""The rule of a sweep: everything that its decision depends on beside the runs themselves.

A rule is frozen with the sweep that it starts (its JSON is part of the sweep's identity), so that a sweep that is
interrupted and resumed, or repeated next week, is judged by the same rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from foundry.core.contracts import UsageError
from foundry.lab.decide.noise import sigma_of_difference
from foundry.lab.decide.sequential import SequentialTest, least_pairs

LEAST_GAIN = 0.01
"""A gain below it is not looked for unless the rule says so. 0.01 nats is worth about 7 % of a training budget
(KellerJordan/modded-nanogpt publishes 0.0045 nats per 100 of 3,300 steps)."""


@dataclass(frozen=True)
class Rule:
    """How arms are screened, and when one of them is better than the baseline.

    Gains and margins are in the metric's unit, with its sign turned where more is better. Raises UsageError, naming
    the field, for values that make no sense.
    """

    metric: str = "val_loss"
    alpha: float = 0.05  # chance that a sweep without any better candidate promotes one
    beta: float = 0.1  # a finalist is given up when a gain of delta is 1 / beta times less likely than none
    delta: float | None = None  # the gain to be found; None: max(LEAST_GAIN, 2 sigma)
    n_max: int = 16  # pairs of runs that one sweep adds at most for a finalist
    finalists: int = 2  # arms that are compared with the baseline on fresh seeds
    screening_seeds: int = 1  # runs of an arm on each rung
    control_seeds: int = 2  # runs of the baseline on each rung
    rungs: tuple[Fraction, ...] | None = None  # shares of the budget, ascending; None: by the number of arms
    window: int = 1  # pairs that a finalist runs at a time: 2 trainings each. 2 costs a tenth more training, and keeps
    # twice as many workers busy. It is part of the rule, so that `--jobs` decides nothing
    cost: str = ""  # axis on which a gain excuses a loss: kv_bytes_per_token, flops_per_token, ...
    cost_factor: float = 1.1  # by which it must fall
    margin: float | None = None  # what a cheaper candidate may lose; None: delta
    margin_cap: float = 0.03  # what all of them together may have lost since the lineage's best confirmed loss
    confirm_at: str = ""  # depth=2x | tokens=4x: a scale at which the winner's sign must hold

    def __post_init__(self) -> None:
        if self.rungs is not None:
            try:
                object.__setattr__(self, "rungs", tuple(Fraction(share) for share in self.rungs))
            except (ValueError, ZeroDivisionError) as error:
                raise UsageError(f"rungs are {self.rungs}; write shares of the budget: 1/8, 1/2") from error
        for problem in self._problems():
            raise UsageError(problem)

    def _problems(self) -> Iterator[str]:
        if not self.metric:
            yield "metric is empty; val_loss is what every run has"
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) < 0.5:
                yield f"{name} is {getattr(self, name):g}; a chance of error lies between 0 and 0.5"
        for name in ("n_max", "finalists", "screening_seeds", "window"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1"
        if self.control_seeds < 2:
            yield f"control_seeds is {self.control_seeds}; with fewer than 2 the baseline's luck decides who is pruned"
        for name in ("delta", "margin"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                yield f"{name} is {value:g}; it must be > 0"
        if not self.margin_cap >= 0:
            yield f"margin_cap is {self.margin_cap:g}; it must be >= 0"
        if not self.cost_factor > 1:
            yield f"cost_factor is {self.cost_factor:g}; a cost gain is a factor > 1"
        if self.rungs is not None:
            ascending = list(self.rungs) == sorted(set(self.rungs))
            if not self.rungs or not ascending or self.rungs[0] <= 0 or self.rungs[-1] > 1:
                yield f"rungs are {', '.join(map(str, self.rungs))}; write ascending shares of the budget, up to 1"
        if self.confirm_at and not re.fullmatch(r"(depth|tokens)=([2-9]|[1-9]\d+)x", self.confirm_at):
            yield f"confirm_at is {self.confirm_at!r}; write depth=2x or tokens=4x"

    def gain(self, sigma: float) -> float:
        """delta: the gain that is looked for, where one run has the standard deviation `sigma`."""
        return self.delta if self.delta is not None else max(LEAST_GAIN, 2 * sigma)

    def test(self, sigma: float, df: int, rho: float = 0.0, *, n_max: int | None = None) -> SequentialTest:
        """The test of one finalist. It counts as many comparisons as the rule allows finalists, however few there
        are."""
        sigma_d = sigma_of_difference(sigma, df, rho)
        return SequentialTest(self.gain(sigma), sigma_d, self.alpha, self.beta, n_max or self.n_max, self.finalists)

    @property
    def least_pairs(self) -> int:
        """Pairs without which no finalist can be promoted."""
        return least_pairs(self.finalists / self.alpha)

    def shares(self, arms: int) -> tuple[Fraction, ...]:
        """The rungs on which `arms` arms are screened. The last one is below 1 by default: it chooses the finalists,
        which then run with the full budget on fresh seeds anyway. Beside 1/3 and 1 one rung of 1/2 finds the best of 8
        arms as often to 3 in 100, with 0.9 of the training (`benchmarks/decisions.py rungs`)."""
        if self.rungs is not None:
            return self.rungs
        return (Fraction(1, 2),) if arms < 12 else (Fraction(1, 8), Fraction(1, 2))

    def keep(self, arms: int) -> int:
        """How many of `arms` go on to the next rung."""
        return max(2, self.finalists, math.ceil(arms / 3))

    def scale(self) -> tuple[str, int] | None:
        """("depth", 2) for a `confirm_at` of depth=2x."""
        axis, _, factor = self.confirm_at.partition("=")
        return (axis, int(factor[:-1])) if self.confirm_at else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a sweep's spec and a decision's record."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values | {"rungs": None if self.rungs is None else [str(share) for share in self.rungs]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Rule:
        """The rule that `to_json` wrote. Raises UsageError for a field that this version does not know."""
        unknown = sorted(set(values) - {each.name for each in fields(cls)})
        if unknown:
            raise UsageError(f"a sweep's rule has no {', '.join(unknown)}")
        rungs = values.get("rungs")
        return cls(**{**values, "rungs": None if rungs is None else tuple(rungs)})
