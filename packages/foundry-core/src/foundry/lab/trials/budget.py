"""How long each arm trains. Arms are compared at equal tokens, those that are trained on; where a token costs over 2 %
more or less FLOPs than the baseline's, its share of the padding included, at equal FLOPs: else deeper and wider would
always win. A share of a budget is a complete, shorter schedule
of its own, because a loss before the learning rate's decay says little about the one after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

from foundry.core.config import Experiment
from foundry.core.config.assemble import edit
from foundry.core.config.schema import BUDGETS
from foundry.core.contracts import DROP, Edits, UsageError
from foundry.core.undisturbed import undisturbed

if TYPE_CHECKING:
    from foundry.lab.trials.setting import Setting

EQUAL = 0.02
"""Relative difference of FLOPs per token up to which equal tokens are equal FLOPs."""

COST_AXES = ("kv_bytes_per_token", "flops_per_token", "parameters", "active_parameters", "memory_bytes")
"""What a model costs, of which less is better, as `foundry analyze` counts it."""

_UNITS = {"steps": "max_iters", "tokens": "tokens", "flops": "flops", "seconds": "seconds", "s": "seconds"}
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_BUDGET = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kmbgt]?)\s*(steps|tokens|flops|seconds|s)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """One of the four ways to say how long to train."""

    name: str  # max_iters | tokens | flops | seconds
    amount: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`300 steps`, `1e12flops`, `500k tokens`, `60 s`. Raises UsageError for anything else."""
        match = _BUDGET.fullmatch(text)
        try:
            number, factor, unit = match.groups() if match else ("", "", "")
            amount = float(number) * _FACTORS[factor.lower()]
            if not 0 < amount < float("inf"):
                raise ValueError
        except ValueError:
            raise UsageError(
                f"--budget {text!r} is no budget", "write 300 steps, 500k tokens, 1e12 flops or 60 seconds"
            ) from None
        return cls(_UNITS[unit.lower()], amount)

    @classmethod
    def of(cls, experiment: Experiment) -> Budget:
        """The one that the experiment states."""
        given = {name: getattr(experiment.training, name) for name in BUDGETS}
        return next(cls(name, amount) for name, amount in given.items() if amount is not None)

    def __str__(self) -> str:
        return f"{self.amount:,.4g} {'steps' if self.name == 'max_iters' else self.name}"

    def times(self, factor: float | Fraction) -> Budget:
        return Budget(self.name, self.amount * float(factor))

    def in_steps_of(self, baseline: Costs, arm: Costs) -> Budget:
        """The same tokens for an arm whose steps have more or fewer of them than the baseline's."""
        return self.times(baseline.tokens_per_step / arm.tokens_per_step) if self.name == "max_iters" else self

    @property
    def edits(self) -> Edits:
        """What makes it an experiment's only budget."""
        whole = self.name in ("max_iters", "tokens")
        amount = max(1, round(self.amount)) if whole else self.amount
        return {**{f"training.{name}": DROP for name in BUDGETS}, f"training.{self.name}": amount}


def with_budget(experiment: Experiment, budget: Budget) -> Experiment:
    """`experiment`, trained so long. What it says already stays as its author wrote it."""
    now = Budget.of(experiment)
    if now.name == budget.name and now.edits == budget.edits:
        return experiment
    return edit(experiment, budget.edits, "the budget")


def share_of(experiment: Experiment, share: Fraction) -> Experiment:
    """`experiment` with a share of its budget."""
    return with_budget(experiment, Budget.of(experiment).times(share))


Count: TypeAlias = Callable[[Experiment, "Setting"], "Costs"]
"""How the costs of an experiment are found, which would be trained so."""


@dataclass(frozen=True)
class Costs:
    """What a model costs."""

    training_flops_per_token: float  # of a token that is trained on, with its share of the padding
    tokens_per_step: float  # that are trained on, in the mean
    positions_per_step: int
    axes: Mapping[str, float]  # COST_AXES

    @classmethod
    def of(cls, experiment: Experiment, count: Callable[[Experiment], Costs] | None = None) -> Costs:
        """Counted once for each experiment: here, or by `count`, where its variants' code is better run elsewhere."""
        if experiment.identity not in _counted:
            _counted[experiment.identity] = (count or cls.count_here)(experiment)
        return _counted[experiment.identity]

    @classmethod
    def count_here(cls, experiment: Experiment) -> Costs:
        """Counted on the modules themselves; see `foundry.core.analyze`. Runs the code of every chosen variant."""
        from foundry.core.analyze import analyze
        from foundry.core.training.budget import StepSize
        from foundry.lab.trials.fingerprint import training_rows

        rows = training_rows(experiment)
        with undisturbed():
            figures: Mapping[str, Any] = analyze(experiment, rows.tokenizer.vocab_size)
        figures = {**figures, "memory_bytes": figures["memory"]["total"]}
        step = StepSize.of(experiment, rows)
        per_token = figures["training_flops_per_token"] * step.positions / step.tokens
        return cls(per_token, step.tokens, step.positions, {axis: float(figures[axis]) for axis in COST_AXES})

    def flops(self, budget: Budget) -> float | None:
        """What `budget` comes to; None for seconds."""
        match budget.name:
            case "flops":
                return budget.amount
            case "tokens":
                return budget.amount * self.training_flops_per_token
            case "max_iters":
                return budget.amount * self.tokens_per_step * self.training_flops_per_token
        return None


_counted: dict[str, Costs] = {}  # by identity: a search compares with the same control again and again


def equalised(arm: Experiment, costs: Costs, budget: Budget, baseline: Costs) -> tuple[Experiment, str]:
    """The arm with a budget worth `budget` of the baseline's, and in words why that is another one.

    Its mutation has kept the positions; how many of them are tokens, the text says. A budget in FLOPs or seconds is
    equal as it is.
    """
    if budget.name not in ("max_iters", "tokens"):
        return with_budget(arm, budget), ""
    own, worth, reasons = Budget.of(arm), budget.in_steps_of(baseline, costs), []
    by_positions = budget.times(baseline.positions_per_step / costs.positions_per_step)
    instead = worth
    if budget.name == "max_iters" and abs(worth.amount - by_positions.amount) > 1:
        reasons.append(f"{costs.tokens_per_step / baseline.tokens_per_step:.2f} x the tokens per step")
        instead = budget
    elif own.name == worth.name and abs(own.amount - worth.amount) <= 1:
        worth = instead = own
    ratio = costs.training_flops_per_token / baseline.training_flops_per_token
    if abs(ratio - 1) > EQUAL:
        reasons.append(f"{ratio:.2f} x the FLOPs per token")
        worth = worth.times(1 / ratio)
    equal = with_budget(arm, worth)
    return equal, f"{', '.join(reasons)}: {Budget.of(equal)} for {instead}" if reasons else ""
