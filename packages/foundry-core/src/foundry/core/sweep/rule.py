"""The rule of a sweep: everything that its decision depends on beside the runs themselves.

A rule is frozen with the sweep that it starts (its JSON is part of the sweep's identity), so that a sweep that is
interrupted and resumed, or repeated next week, is judged by the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from foundry.core.contracts import UsageError

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
    beta: float = 0.1  # chance that a finalist which is better by delta is rejected
    delta: float | None = None  # the gain to be found; None: max(LEAST_GAIN, 2 sigma)
    n_max: int = 16  # pairs of runs that one sweep adds at most for a finalist
    finalists: int = 2  # arms that are compared with the baseline on fresh seeds
    screening_seeds: int = 1  # runs of an arm at each rung
    control_seeds: int = 2  # runs of the baseline at each rung
    rungs: tuple[Fraction, ...] | None = None  # shares of the budget, ascending; None: by the number of arms
    window: int = 2  # pairs that a finalist runs at a time; part of the rule, so that `--jobs` decides nothing
    cost: str = ""  # axis of which less is enough where the loss is no worse: kv_bytes_per_token, flops_per_token, ...
    cost_factor: float = 1.1  # by which it must fall
    margin: float | None = None  # what a cheaper candidate may lose; None: delta
    margin_cap: float = 0.03  # what all of them together may have lost since the best confirmed loss
    confirm_at: str = ""  # depth=2x | tokens=4x: a scale at which the winner's sign must hold

    def __post_init__(self) -> None:
        if self.rungs is not None:
            object.__setattr__(self, "rungs", tuple(Fraction(share) for share in self.rungs))
        for wrong in self._problems():
            raise UsageError(f"the sweep's rule: {wrong}")

    def _problems(self) -> Iterator[str]:
        if not self.metric:
            yield "metric is empty; val_loss is what every run has"
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) < 0.5:
                yield f"{name} is {getattr(self, name):g}; it is a probability of error, between 0 and 0.5"
        for name in ("n_max", "finalists", "screening_seeds", "window"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1"
        if self.control_seeds < 2:
            yield f"control_seeds is {self.control_seeds}; with fewer than 2 the baseline's luck would prune the arms"
        for name in ("delta", "margin"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                yield f"{name} is {getattr(self, name):g}; it must be > 0"
        if not self.margin_cap >= 0:
            yield f"margin_cap is {self.margin_cap:g}; it must be >= 0"
        if self.cost and not self.cost_factor > 1:
            yield f"cost_factor is {self.cost_factor:g}; a cost gain is a factor > 1"
        if self.rungs is not None:
            if (
                not self.rungs
                or list(self.rungs) != sorted(set(self.rungs))
                or self.rungs[0] <= 0
                or self.rungs[-1] > 1
            ):
                yield f"rungs are {', '.join(map(str, self.rungs))}; they are ascending shares of the budget, up to 1"
        if self.confirm_at:
            axis, _, factor = self.confirm_at.partition("=")
            if axis not in ("depth", "tokens") or not factor.endswith("x") or not factor[:-1].isdigit():
                yield f"confirm_at is {self.confirm_at!r}; write depth=2x or tokens=4x"

    def gain(self, sigma: float) -> float:
        """delta: the gain that is looked for, where one run has the standard deviation `sigma`."""
        return self.delta if self.delta is not None else max(LEAST_GAIN, 2 * sigma)

    def shares(self, arms: int) -> tuple[Fraction, ...]:
        """The rungs on which `arms` arms are screened."""
        if self.rungs is not None:
            return self.rungs
        if arms <= 3:
            return (Fraction(1),)
        return (Fraction(1, 3), Fraction(1)) if arms < 12 else (Fraction(1, 9), Fraction(1, 3), Fraction(1))

    def keep(self, arms: int) -> int:
        """How many of `arms` go on to the next rung."""
        return max(2, math.ceil(arms / 3))

    def scale(self) -> tuple[str, int] | None:
        """("depth", 2) of a `confirm_at` of depth=2x."""
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
            raise UsageError(f"the sweep's rule has no field {', '.join(unknown)}")
        rungs = values.get("rungs")
        return cls(**{**values, "rungs": None if rungs is None else tuple(Fraction(share) for share in rungs)})
