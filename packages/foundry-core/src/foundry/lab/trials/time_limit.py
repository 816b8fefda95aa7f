"""Ends a worker's training where its time is up, and the trial has then failed; or where its trial was given to
another."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

from foundry.core.blame import running
from foundry.core.contracts import FoundryError
from foundry.core.system.signals import StopRequest
from foundry.lab.ledger import Attempt, Ledger
from foundry.lab.trials.heartbeat import WATCH_SECONDS, Background

GRACE_SECONDS = 10.0
"""What is asked to stop may take so long to finish its step; then its process is ended."""
BUILD_SECONDS = 300.0
"""From the data to the first step, where trials have a time limit: some seconds, of the largest models a minute."""


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
