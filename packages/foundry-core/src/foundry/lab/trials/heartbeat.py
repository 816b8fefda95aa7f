"""Signs of life beside the work on a claim, by a thread of its own: of a trial a worker shows that it lives, of a sweep
a driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from foundry.core.contracts import FoundryError
from foundry.core.run import Run, RunInUse
from foundry.lab.ledger import Ledger

HEARTBEAT_SECONDS = 10.0
"""A lease lasts 18 of them: nothing is taken away from a machine that is merely slow."""
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS
"""A process without a heartbeat for so long may have died: a process that waits for it says so."""
WATCH_SECONDS = 0.5
LOCK_SECONDS = 60.0
"""How long an attempt waits for its predecessor's process to leave the run."""


class Background:
    """A context manager: inside it, a thread of its own calls `turn` every `pause` seconds, until that returns true."""

    def __init__(self, ledger: Ledger, pause: float) -> None:
        self.ledger, self.pause = ledger, pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__.lower(), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def turn(self) -> bool:
        """What it is for; true: that was all."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._over.wait(self.pause) and not self.turn():
            pass
        self.ledger.close()  # this thread's connection


class Heartbeat(Background):
    """Calls `beat` every HEARTBEAT_SECONDS."""

    def __init__(self, ledger: Ledger, beat: Callable[[], object]) -> None:
        super().__init__(ledger, HEARTBEAT_SECONDS)
        self.beat = beat

    def turn(self) -> bool:
        with suppress(FoundryError):  # the disk is full: who works may still come to an end, and say so itself
            self.beat()
        return False


def wait_for_predecessor(run: Run, tell: Callable[[str], None]) -> None:
    """Until no process trains into the folder of a run. A process that is stopped keeps its lock when its lease has
    ended: once it goes on, it notices and leaves; an executor may end it before.

    Args:
        tell: told once whom it waits for, and how long.

    Raises:
        RunInUse: it is still there after LOCK_SECONDS.
    """
    end, told = time.monotonic() + LOCK_SECONDS, False
    while True:
        try:
            with run.held():
                return
        except RunInUse as failure:
            if time.monotonic() > end:
                raise
            if not told:
                tell(f"waits for up to {LOCK_SECONDS:.0f} s: {failure.message}")
                told = True
        time.sleep(WATCH_SECONDS)
