"""Processes that Foundry starts end with the one that started them, whichever way that ended: `kill -9`, too.

The parent keeps the write end of a pipe, which is the child's standard input; the system closes it when the parent
dies. (Linux' PR_SET_PDEATHSIG would also fire when only the thread that forked ends, and macOS has no such thing.) What
another launcher has started, such as torchrun, has no pipe, and looks whose child it is.

A child that is left alone is asked to end as by SIGTERM, so what it trains is saved; what takes longer than a minute is
ended as it is.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from foundry.core.system.signals import ask_to_stop

ORPHAN_SECONDS = 60.0
"""For a child whose parent has died to finish its step and save."""
POLL_SECONDS = 0.5
STDIN = 0

PYTHON = (sys.executable, "-P")
"""How a child begins: never with the working directory first among the places of modules, where a person's `signal.py`
would be taken for Python's own."""
CHILD = {"FOUNDRY_PARENT": "stdin"}
"""The environment of a child whose standard input is the pipe."""


def end_with_parent() -> None:
    """To be called at the beginning of a child's life. Does nothing in a process that no launcher has started."""
    if os.environ.pop("FOUNDRY_PARENT", "") == "stdin":
        in_thread(lambda: listen(lambda line: ask_to_stop()))
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        parent = os.getppid()
        in_thread(lambda: _until_adopted(parent))


def listen(told: Callable[[str], None], left: Callable[[], None] = lambda: None) -> None:
    """Read what the parent writes on the pipe, line by line; when it is gone, end.

    Args:
        left: called first when it is gone.
    """
    unread = b""
    while piece := os.read(STDIN, 4096):  # not sys.stdin, whose lock a thread may not hold when Python ends
        *lines, unread = (unread + piece).split(b"\n")
        for line in lines:
            told(line.decode(errors="replace").strip())
    left()
    _end()


def in_thread(target: Callable[[], None]) -> None:
    threading.Thread(target=target, name="parent", daemon=True).start()


def _until_adopted(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    _end()


def _end() -> None:
    ask_to_stop()
    time.sleep(ORPHAN_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
