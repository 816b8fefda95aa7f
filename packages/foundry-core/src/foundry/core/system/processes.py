"""Which process something belongs to, and whether it can still be alive.

A process is known by host, boot, pid namespace, pid and start time, so that a reused pid is not mistaken for it. Of one
that can be seen from here - the same boot of the same machine, the same container - the answer is certain and at once,
as far as the system tells: without /proc, or where it hides other people's processes, a pid that is there counts as
alive.

Of any other nothing is known, also where it has our host's name and another boot. That may be this machine before it
was started anew, or another one that is called so: containers and virtual machines made of one image are, and each has
a kernel, and so a boot, of its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


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
        if not self.is_visible():
            return False
        if not _is_there(self.pid):
            return True
        start = _start(self.pid)
        return bool(self.start) and start is not None and start != self.start

    def is_visible(self) -> bool:
        """Whether its pid means here what it means there."""
        here = this_process()
        return (self.host, self.boot, self.namespace) == (here.host, here.boot, here.namespace)

    def __str__(self) -> str:
        here = this_process()
        if self.is_visible():
            return f"process {self.pid}"
        if self.host != here.host:
            return f"process {self.pid} on {self.host}"
        where = "in another container" if self.boot == here.boot else "on another boot, or machine, of that name"
        return f"process {self.pid} on {self.host}, {where}"


def this_process() -> Process:
    return _process(os.getpid())


@lru_cache(maxsize=1)
def _process(pid: int) -> Process:
    return Process(os.uname().nodename, _boot(), _namespace(), pid, _start(pid) or "")


def _start(pid: int) -> str | None:
    """When a process started; empty for one that has ended and was not waited for; None where /proc does not show
    it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # what stands before may hold blanks and brackets
    return "" if state in "ZX" else fields[18]


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
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
