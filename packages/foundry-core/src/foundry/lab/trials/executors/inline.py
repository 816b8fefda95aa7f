"""The calling process trains, one trial after the other. For debugging, and where there is no other process to have."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from foundry.core.contracts import Params
from foundry.lab.trials.executors.site import LedgerSite
from foundry.lab.trials.worker import Worker


class Inline:
    def __init__(self, params: Params, site: LedgerSite) -> None:
        # A signal is noted here, and raises nothing: an interrupt is a variant's.
        self.site = site
        self.worker = Worker(site.ledger, "inline", site.trial_seconds, self.told, leaving=lambda: False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def told(self, **facts: Any) -> None:
        if "waits" in facts:
            self.site.note(f"the trial {facts['waits']}")

    def work(self, sweep: str, *, waiting: int, device: str, threads: int) -> None:
        self.worker.work(sweep)
