"""How a sweep tells its story while it happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from foundry.lab.sweep.plan import Plan
from foundry.lab.trials.driver import Running, TrialReporter


class SweepReporter(TrialReporter, Protocol):
    """A reporter of trials and of their sweeps."""

    def planned(self, sweep: str, plan: Plan) -> None:
        """A sweep begins, or goes on."""


class Silent:
    """Reports nothing."""

    def note(self, text: str) -> None: ...
    def planned(self, sweep: str, plan: Plan) -> None: ...
    def batch(self, trials: Sequence[Running]) -> None: ...
    def tick(self) -> None: ...
