"""How long a claim lasts: a worker's on a trial, a driver's on a sweep.

Of a process that can be seen from here it is certain and at once whether it is there. Of any other - another host,
another container - only its heartbeat tells, and it tells of those that are there and do not move, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from foundry.core.system.processes import Process, this_process

LEASE_SECONDS = 180.0
"""Without a heartbeat for so long, a claim is taken over. A first step can take a minute to compile."""
MAX_LOST_CLAIMS = 25
"""Attempts whose process was gone: a trial that kills its worker must end, an unlucky one must not."""


@dataclass(frozen=True)
class Beat:
    """An instant, as all that may have to measure its age can read it."""

    boot: str
    clock: float  # seconds that the machine had been awake since that boot, the same for all its processes
    wall: float  # seconds since the epoch

    @classmethod
    def now(cls) -> Beat:
        return cls(this_process().boot, _clock(), time.time())

    @property
    def age(self) -> float:
        """In seconds. By the clock of its boot if that is ours: then neither a change of the time of day nor a closed
        lid makes a lease old."""
        is_ours = bool(self.boot) and self.boot == this_process().boot
        return _clock() - self.clock if is_ours else time.time() - self.wall


@dataclass(frozen=True)
class Holder:
    """Who has claimed something, and when it was heard of last."""

    process: Process
    beat: Beat
    name: str = ""  # of a worker

    def lost_claim(self, lease_seconds: float, is_gone: Callable[[Process], bool] = Process.is_gone) -> str:
        """Why it has lost its claim, in words; empty while that holds."""
        if is_gone(self.process):
            return "its process is gone"
        silent = self.beat.age
        return f"no heartbeat for {silent:.0f} s" if silent > lease_seconds else ""

    def __str__(self) -> str:
        return f"{self.name}, {self.process}" if self.name else str(self.process)


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)
