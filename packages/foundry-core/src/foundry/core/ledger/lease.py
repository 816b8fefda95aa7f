"""How long a claim lasts: until its process is known to be gone, or has not been heard of for a while.

Of a process on this machine it is certain and at once whether it is there; of another machine's only its heartbeat
tells.
"""

from __future__ import annotations

import time

from foundry.core.system.processes import Process, this_process

__all__ = ["LEASE_SECONDS", "Process", "age", "clock", "this_process"]

LEASE_SECONDS = 180.0
"""Without a heartbeat for so long, a claim is taken over. A first step can take a minute to compile."""


def clock() -> float:
    """Seconds that this machine has been awake since its boot, the same for all its processes: neither a change of the
    time of day nor a closed lid makes a lease old."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def age(boot: str, then: float, wall: float) -> float:
    """Seconds since a heartbeat, by the clock of its boot if that is ours, else by the wall clock."""
    return clock() - then if boot and boot == this_process().boot else time.time() - wall
