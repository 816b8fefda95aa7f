"""Who holds a claim, and whether that process can still be alive.

A process is known by host, boot, pid namespace, pid and start time, so that a reused pid is not mistaken for it. Of a
process on this machine the answer is certain and at once; of another machine's only its heartbeat tells.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

LEASE_SECONDS = 180.0
"""Without a heartbeat for so long, a claim is taken over. A first step can take a minute to compile."""


@dataclass(frozen=True)
class Process:
    """One process. Empty text: this system does not tell."""

    host: str
    boot: str
    namespace: str  # of pids: two containers on one host have different ones
    pid: int
    start: str  # ticks since boot

    def is_gone(self) -> bool:
        """Whether it is certainly not running any more; False where that cannot be known from here."""
        here = this_process()
        if self.host != here.host:
            return False
        if self.boot != here.boot:
            return bool(self.boot and here.boot)
        if self.namespace != here.namespace:
            return False
        if not here.start:
            return not _is_there(self.pid)
        return _start(self.pid) != self.start


def this_process() -> Process:
    return _process(os.getpid())


@lru_cache(maxsize=1)
def _process(pid: int) -> Process:
    return Process(os.uname().nodename, _boot(), _namespace(), pid, _start(pid))


def clock() -> float:
    """Seconds that this machine has been awake since its boot, the same for all its processes: neither a change of the
    time of day nor a closed lid makes a lease old."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def age(boot: str, then: float, wall: float) -> float:
    """Seconds since a heartbeat, by the clock of its boot if that is ours, else by the wall clock."""
    return clock() - then if boot and boot == this_process().boot else time.time() - wall


def _start(pid: int) -> str:
    """When a process started; empty for one that is not there or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()  # what stands before may hold blanks and brackets
    return "" if state in "ZX" else fields[18]


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
