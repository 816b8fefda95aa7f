"""What an executor is built with, and what it must do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from foundry.core.ledger.ledger import Ledger


@dataclass(frozen=True)
class Site:
    """Where an executor works."""

    project: Path
    ledger: Ledger
    jobs: int  # trials at a time
    trial_seconds: float | None = None  # a trial that takes longer has failed
    note: Callable[[str], None] = lambda text: None


class Executor(Protocol):
    """Slot `executor`; built as `target(params, site)`. A context manager: outside it, nothing runs."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ask the workers to save what they train, and wait until they have."""

    def work(self, sweep: str, *, waiting: int, device: str, threads: int) -> None:
        """See to it that somebody trains the trials of `sweep`, of which so many are queued, and which ask for this
        device and so many threads. Called several times a second while some are queued or running; may take as long as
        a trial.

        Raises:
            EnvironmentFailure: workers cannot be started here, or one after the other dies.
        """
