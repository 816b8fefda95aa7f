"""What a sweep is asked. The same question about the same baseline is the same sweep, however often it is put."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foundry.core.config.budget import Budget
from foundry.core.contracts import Stack
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger.sweep_row import SweepRow, stack_from_json


@dataclass(frozen=True)
class Question:
    """Which mutations of the baseline are better than it, by which rule?"""

    stacks: tuple[Stack, ...]  # the mutations of each arm
    rule: Rule = field(default_factory=Rule)
    budget: Budget | None = None  # of every training; None: the baseline's own
    lr_factors: tuple[float, ...] = ()  # learning rates that every arm tries beside its own, as factors on it
    tasks: tuple[str, ...] = ()  # evaluated after every training
    sets: tuple[str, ...] = ()  # `key=value` each: holds in every training, and in nothing that is promoted

    def to_json(self) -> dict[str, Any]:
        return {
            "stacks": [[list(mutation) for mutation in stack] for stack in self.stacks],
            "rule": self.rule.to_json(),
            "budget": None if self.budget is None else [self.budget.name, self.budget.amount],
            "lr_factors": list(self.lr_factors),
            "tasks": list(self.tasks),
            **({"sets": list(self.sets)} if self.sets else {}),  # a question without them is the one that it was before
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Question:
        """The question that `to_json` wrote."""
        return cls(
            stacks=tuple(map(stack_from_json, values["stacks"])),
            rule=Rule.from_json(values["rule"]),
            budget=None if values["budget"] is None else Budget(*values["budget"]),
            lr_factors=tuple(values["lr_factors"]),
            tasks=tuple(values["tasks"]),
            sets=tuple(values.get("sets", ())),
        )

    @classmethod
    def of(cls, sweep: SweepRow) -> Question:
        """What a sweep was asked."""
        return cls.from_json(sweep.question)

    @classmethod
    def behind(cls, sweep: SweepRow) -> Question:
        """What was asked, for which a sweep was begun: of a measurement of the noise, the question that needed
        it."""
        return cls.from_json(sweep.asked_by or sweep.question)
