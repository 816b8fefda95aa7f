"""What trains the trials of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True)
class Site:
    """The project that an executor works for, and its limits."""

    project: Path
    jobs: int  # trials at the same time
    program: tuple[str, ...]  # begins the command of a worker
    trial_seconds: float | None = None  # a trial that takes longer has failed
    note: Callable[[str], None] = lambda text: None
    """Called with a message for the user."""

    def worker(self, sweep: str = "", name: str = "") -> list[str]:
        """The command of a worker, for any machine that sees the project's folder.

        Args:
            sweep: whose trials it trains, one after the other, until the sweep is finished; without it, the worker
                reads orders on standard input.
            name: of the worker in the ledger; by default the machine's name and the number of the process.
        """
        command = [*self.program, str(self.project)]
        command += ["--sweep", sweep] if sweep else []
        command += ["--name", name] if name else []
        return command + ([] if self.trial_seconds is None else ["--trial-seconds", str(self.trial_seconds)])


class Executor(Protocol):
    """Slot `executor`; built as `target(params, site)`. A context manager: outside it, nothing runs.

    It starts workers, not trials: the ledger decides what a worker does next, and gives the trial of a dead worker to
    another. An executor may have a method `count`, as `local` has: it counts the costs of a plugin's model in a worker,
    because the plugin's code may end the process.
    """

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ask the workers to save and to end, and wait for them."""

    def work(self, sweep: str, *, waiting: int, device: str, threads: int) -> None:
        """Start workers for the trials of `sweep`: `waiting` of them are queued, for this device and this number of
        threads. Called several times a second while trials are queued or running; may take as long as a trial.

        Raises:
            EnvironmentFailure: workers cannot be started here, or die one after the other.
        """
