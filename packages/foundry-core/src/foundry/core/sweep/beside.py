"""What goes on beside a worker's training: a watch on its claim and its time, and a log."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from foundry.core.blame import running
from foundry.core.contracts import FoundryError
from foundry.core.ledger import Attempt, Ledger
from foundry.core.printable import printable
from foundry.core.run import EXPERT_FIELDS, Run, RunInUse
from foundry.core.system.signals import StopRequest

WATCH_SECONDS = 0.5
GRACE_SECONDS = 10.0
"""What is asked to stop may take so long to finish its step; then its process is ended."""
BUILD_SECONDS = 300.0
"""From the data to the first step, where trials have a time limit: some seconds, of the largest models a minute."""
LOCK_SECONDS = 60.0
"""How long an attempt waits for its predecessor's process to leave the run."""
CURVE_POINTS = 200
"""Rows of metrics that the ledger keeps of a trial, beside those with a validation loss."""


class Watch:
    """Whether an attempt still holds its trial, and its time limit. Either asks the training to stop, which then saves;
    a step that never returns is ended with its process, by SIGKILL: a call into C may run no handler of ours.

    The limit counts from the first step: what a new process has to import, and a corpus to prepare, is not the trial's
    fault. To be built it has a limit of its own, or what never comes to a first step would never end.

    Args:
        stop: what the training looks at.
    """

    def __init__(self, ledger: Ledger, attempt: Attempt, seconds: float | None, stop: StopRequest) -> None:
        self.ledger, self.attempt, self.seconds, self.stop = ledger, attempt, seconds, stop
        self.timed_out = self.taken_over = False
        self.complaint = ""
        self._end = float("inf")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

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

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            self.timed_out = time.monotonic() >= self._end
            if self.timed_out or self.taken_over:
                self._stop()
                break
        self.ledger.close()  # this thread's connection

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


class Log:
    """The trainer's reporter: what a person would want to know of a trial that went wrong."""

    def __init__(self, watch: Watch, write: Callable[[str], None]) -> None:
        self.watch, self.write = watch, write

    def started(self, plan: Mapping[str, Any]) -> None:
        self.watch.training_begins()
        self.write(" ".join(f"{key}={value}" for key, value in plan.items()))

    def step(self, row: Mapping[str, Any], progress: float, seconds_left: float) -> None: ...

    def note(self, text: str) -> None:
        self.write(f"note: {text}")

    def sample(self, step: int, text: str) -> None: ...

    def finished(self, result: Mapping[str, Any]) -> None:
        self.write(f"finished: step={result['step']} val_loss={result['val_loss']} run={result['run']}")


def thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points of a curve: every row with a validation loss, and at most CURVE_POINTS others, evenly spaced."""
    every = max(1, -(-len(rows) // CURVE_POINTS))
    keys = ("step", "tokens", "train_loss", "val_loss", "val_bpb", "lr", "elapsed", *EXPERT_FIELDS)
    chosen = [row for place, row in enumerate(rows, 1) if "val_loss" in row or place % every == 0]
    return [{key: row[key] for key in keys if row.get(key) is not None} for row in chosen]


def log(text: str) -> None:
    """A line on standard error, with the time."""
    with suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')} {printable(text)}", file=sys.stderr, flush=True)
