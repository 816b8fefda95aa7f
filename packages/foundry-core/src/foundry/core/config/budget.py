"""How long an experiment trains: one of four amounts, in words and in the experiment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from foundry.core.config.assemble import edit
from foundry.core.config.experiment import Experiment
from foundry.core.config.schema import BUDGETS
from foundry.core.contracts import DROP, Edits, UsageError

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
                f"--budget {text!r} is not a budget", "write 300 steps, 500k tokens, 1e12 flops or 60 seconds"
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
    """`experiment` with a share of its budget: a complete, shorter schedule of its own, because a loss before the
    learning rate's decay says little about the one after it."""
    return with_budget(experiment, Budget.of(experiment).times(share))
