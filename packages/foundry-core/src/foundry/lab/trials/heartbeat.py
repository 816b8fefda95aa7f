"""What is done beside the work on a claim, by a thread of its own.

Heartbeat   shows that its holder lives: of a trial a worker, of a sweep a driver
Watch       ends a worker's training, where its trial was given to another or its time is up
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from foundry.core.blame import running
from foundry.core.contracts import FoundryError
from foundry.core.run import Run, RunInUse
from foundry.core.system.signals import StopRequest
from foundry.lab.ledger import Attempt, Ledger

HEARTBEAT_SECONDS = 10.0
"""A lease lasts 18 of them: nothing is taken away from a machine that is merely slow."""
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS
"""Who was not heard of for so long may have died: whoever waits for it is told."""
WATCH_SECONDS = 0.5
GRACE_SECONDS = 10.0
"""What is asked to stop may take so long to finish its step; then its process is ended."""
BUILD_SECONDS = 300.0
"""From the data to the first step, where trials have a time limit: some seconds, of the largest models a minute."""
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


class Watch(Background):
    """Whether an attempt still holds its trial, and its time limit. Either asks the training to stop, which then saves;
    a step that never returns is ended with its process, by SIGKILL: a call into C may run no handler of ours.

    The limit counts from the first step: what a new process has to import, and a corpus to prepare, is not the trial's
    fault. To be built it has a limit of its own, or what never comes to a first step would never end.

    Args:
        stop: what the training looks at.
    """

    def __init__(self, ledger: Ledger, attempt: Attempt, seconds: float | None, stop: StopRequest) -> None:
        super().__init__(ledger, WATCH_SECONDS)
        self.attempt, self.seconds, self.stop = attempt, seconds, stop
        self.timed_out = self.taken_over = False
        self.complaint = ""
        self._end = float("inf")

    def building_begins(self) -> None:
        if self.seconds is not None:
            self._allow(max(self.seconds, BUILD_SECONDS), " to be built")

    def training_begins(self) -> None:
        if self.seconds is not None:
            self._allow(self.seconds)

    def _allow(self, seconds: float, to_do_what: str = "") -> None:
        self.complaint = f"timeout: it took longer than {seconds:g} s{to_do_what}"
        self._end = time.monotonic() + seconds

    def renew(self) -> None:
        """The attempt's heartbeat."""
        self.taken_over = not self.ledger.renew(self.attempt)

    def turn(self) -> bool:
        self.timed_out = time.monotonic() >= self._end
        if self.timed_out or self.taken_over:
            self._stop()
            return True
        return False

    def _stop(self) -> None:
        self.stop.ask()
        if self._over.wait(GRACE_SECONDS):
            return
        if self.timed_out:
            place = running(threading.main_thread().ident)
            where = f", in {place} ({place.function})" if place else ""
            with suppress(FoundryError):  # there will be nobody else to say so
                self.ledger.fail(self.attempt, self.complaint + where)
        os.kill(os.getpid(), signal.SIGKILL)


def wait_for_predecessor(run: Run, tell: Callable[[str], None]) -> None:
    """Until nobody trains into the folder of a run. A process that is stopped keeps its lock when its lease has ended:
    once it goes on, it notices and leaves; an executor may end it before.

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
