"""What passes between a procedure, which decides, and what trains for it.

    procedure -> Requests -> a driver with workers and a ledger, or a simulation
    procedure <- Outcomes <-

A procedure is a generator without clock, chance or files: with the same outcomes it asks for the same requests and ends
with the same conclusion. That is what lets a sweep be killed at any instant: it is run again from its beginning, and
what the ledger knows is answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from foundry.core.digest import digest
from foundry.lab.ledger.records import Role


@dataclass(frozen=True)
class Request:
    """One training run that a procedure wants."""

    arm: str  # its name in the sweep; CONTROL for the baseline
    seed: int
    role: Role
    share: Fraction = Fraction(1)  # of the arm's budget, as a complete schedule of its own


CONTROL = "baseline"
"""The arm that every sweep has."""


def arm_name(mutations: Sequence[tuple[str, str]]) -> str:
    """`activation relu2 + depth 6`."""
    return " + ".join(f"{type} {value}" for type, value in mutations) or "nothing"


@dataclass(frozen=True)
class Failure:
    """A run that has no score, and why. Never a number: a crash is no bad result."""

    reason: str


Outcome: TypeAlias = float | Failure
"""The metric of a finished run, its sign turned where more is better: lower is better."""

Answers: TypeAlias = Mapping[Request, Outcome]


@dataclass(frozen=True)
class Contender:
    """An arm as a procedure sees it."""

    arm: str
    identity: str  # of its experiment
    family: str = ""  # arms that differ only in the learning rate: the best stands for all; "": the arm alone
    gain: float = 1.0  # baseline's cost / its cost on the rule's cost axis, > 1 = cheaper
    own_seeds: bool = False  # the baseline again under another name: with the same seeds it would be the same runs

    @property
    def line(self) -> str:
        return self.family or self.arm

    def seed(self, *purpose: str | int) -> int:
        """The seed for some purpose, which cannot be chosen: 60 bits of a digest."""
        return int(digest(*(("null", self.identity) if self.own_seeds else ()), *purpose)[:15], 16)
