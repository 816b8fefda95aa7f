"""What arms cost, and how long each trains for it. They are compared at equal tokens, those that are trained on. Where
a token costs over 2 % more or less FLOPs than the baseline's, its share of the padding included, they are compared at
equal FLOPs: else deeper and wider would always win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from foundry.core.config import Experiment
from foundry.core.config.budget import Budget, with_budget
from foundry.core.undisturbed import undisturbed

if TYPE_CHECKING:
    from foundry.lab.trials.setting import Setting

EQUAL = 0.02
"""Relative difference of FLOPs per token up to which equal tokens are equal FLOPs."""

COST_AXES = ("kv_bytes_per_token", "flops_per_token", "parameters", "active_parameters", "memory_bytes")
"""What a model costs, of which less is better, as `foundry analyze` counts it."""

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


def in_steps_of(budget: Budget, baseline: Costs, arm: Costs) -> Budget:
    """The same tokens for an arm whose steps have more or fewer of them than the baseline's."""
    return budget.times(baseline.tokens_per_step / arm.tokens_per_step) if budget.name == "max_iters" else budget


def equalised(arm: Experiment, costs: Costs, budget: Budget, baseline: Costs) -> tuple[Experiment, str]:
    """The arm with a budget worth `budget` of the baseline's, and in words why that is another one.

    Its mutation has kept the positions; how many of them are tokens, the text says. A budget in FLOPs or seconds is
    equal as it is.
    """
    if budget.name not in ("max_iters", "tokens"):
        return with_budget(arm, budget), ""
    own, worth, reasons = Budget.of(arm), in_steps_of(budget, baseline, costs), []
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
