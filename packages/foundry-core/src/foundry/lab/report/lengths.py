"""How long trainings are, as a sweep or a baseline states it. Read from plain values: to list what was tried, nobody
has to load the schema of experiments."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from statistics import fmean
from typing import NamedTuple

from foundry.lab.ledger.records import BriefTrial, Json

UNITS = {"max_iters": "steps", "tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}
"""By the names that budgets have in experiments and in questions."""
FIGURES = {"steps": "steps", "tokens": "tokens", "FLOPs": "flops", "seconds": "seconds"}
"""Unit -> what a trial tells of it."""
EQUAL = 0.01
"""Relative difference up to which a budget is none below another: what is measured differs a little."""


class Length(NamedTuple):
    """A budget, and what else makes runs of one length no match for those of another sweep."""

    unit: str  # "" where nobody wrote down what the baseline states
    amount: float  # where the unit is "", a share of it
    held: str = ""  # what `--set` holds in every training

    @classmethod
    def asked(cls, question: Json, own: Length) -> Length:
        """What a sweep was asked to train for.

        Args:
            own: the budget that its baseline states.
        """
        stated, held = question.get("budget"), []
        length = own if stated is None else cls(UNITS.get(stated[0], stated[0]), float(stated[1]))
        for each in question.get("sets", ()):
            key, _, value = (part.strip() for part in each.partition("="))
            unit = UNITS.get(key.removeprefix("training."))
            if unit is None:
                held.append(each)
            elif stated is None and value.lower() not in ("null", "~", ""):
                length = cls(unit, float(value))
        return length._replace(held=", ".join(held))

    @classmethod
    def own(cls, experiment: Json) -> Length:
        """What an experiment states itself."""
        stated = experiment.get("training", {})
        given = (cls(unit, float(stated[name])) for name, unit in UNITS.items() if stated.get(name) is not None)
        return next(given, UNKNOWN)

    def is_below(self, other: Length, runs: Iterable[BriefTrial]) -> bool | None:
        """Whether it is shorter than another; None where that is not known.

        Args:
            runs: of this length: what they came to tells, where the other is stated in another unit.
        """
        amount: float | None = self.amount
        if self.unit != other.unit:
            amount = mean(getattr(run, FIGURES[other.unit]) for run in runs) if other.unit in FIGURES else None
        return None if amount is None else amount < (1 - EQUAL) * other.amount

    def __str__(self) -> str:
        return _words(self.unit, self.amount) + (f" with {self.held}" if self.held else "")


UNKNOWN = Length("", 1.0)


@cache
def part(whole: Length, share: str) -> str:
    """A share of a budget, as trials have it, in whole steps and tokens, in words."""
    amount = whole.amount * float(Fraction(share))
    return str(whole._replace(amount=float(max(1, round(amount))) if whole.unit in ("steps", "tokens") else amount))


def _words(unit: str, amount: float) -> str:
    if not unit:
        return "whole budget" if amount == 1 else f"{Fraction(amount).limit_denominator(1000)} of the budget"
    if unit in ("steps", "tokens"):
        return f"{amount:,.0f} {unit if amount != 1 else unit[:-1]}"
    return f"{amount:,.4g} {unit}"


def mean(values: Iterable[float | None]) -> float | None:
    """Of the values that are there."""
    there = [value for value in values if value is not None]
    return fmean(there) if there else None
