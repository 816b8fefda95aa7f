"""By which who holds a claim shows that it is there: a worker what it trains, a driver what it drives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from foundry.core.contracts import FoundryError
from foundry.core.ledger.ledger import Ledger

HEARTBEAT_SECONDS = 10.0
"""A lease lasts 18 of them: nothing is taken away from a machine that is merely slow."""
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS
"""Who was not heard of for so long may have died: whoever waits for it is told."""


class Heartbeat:
    """A context manager: inside it, a thread of its own calls `beat` every HEARTBEAT_SECONDS."""

    def __init__(self, ledger: Ledger, beat: Callable[[], object]) -> None:
        self.ledger, self.beat = ledger, beat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            with suppress(FoundryError):  # the disk is full: who works may still come to an end, and say so itself
                self.beat()
        self.ledger.close()  # this thread's connection
