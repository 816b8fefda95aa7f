"""Who trains the trials of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True)
class Site:
    """Where an executor works, and for whom."""

    project: Path
    jobs: int  # trials at a time
    program: tuple[str, ...]  # begins the command of a worker
    trial_seconds: float | None = None  # a trial that takes longer has failed
    note: Callable[[str], None] = lambda text: None
    """Told what a person should know."""

    def worker(self, sweep: str = "", name: str = "") -> list[str]:
        """The command of a worker: what an executor starts, on any machine that sees the project's folder.

        Args:
            sweep: whose trials it trains, one after the other, until that is finished; without, it reads on standard
                input what to do.
            name: in the ledger, of who claims; by default the machine's, with the number of the process.
        """
        command = [*self.program, str(self.project)]
        command += ["--sweep", sweep] if sweep else []
        command += ["--name", name] if name else []
        return command + ([] if self.trial_seconds is None else ["--trial-seconds", str(self.trial_seconds)])


class Executor(Protocol):
    """Slot `executor`; built as `target(params, site)`. A context manager: outside it, nothing runs.

    It starts workers, not trials: what a worker does next, and what becomes of one that dies, is the ledger's. One that
    has a method `count`, as `local` does, counts there what a plugin's model costs: its code may end the process.
    """

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
