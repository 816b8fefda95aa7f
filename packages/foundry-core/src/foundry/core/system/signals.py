"""Being asked to stop, by a signal: what is under way ends at its next step, and saves.

    SIGINT     Ctrl-C
    SIGTERM    kill, a scheduler, a container that is stopped
    SIGHUP     the terminal is gone
    SIGXCPU    the limit of processor time is near
    SIGUSR1, SIGUSR2    what schedulers send a while before they kill

The default of each is to end the process at once, with nothing saved. A signal that was ignored when the process
began stays ignored, as SIGHUP under nohup, and so does a handler of somebody else's for the last two.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, ClassVar, Self

INSISTING = (signal.SIGINT, signal.SIGTERM)
"""The second one of these ends the process at once. The others come twice for one reason: a terminal that closes sends
SIGHUP by its shell and by the system, and SIGXCPU is sent every second."""
ENDING = (*INSISTING, signal.SIGHUP)
"""What ends any command."""
RESERVED = (signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2)
"""What only ends a training."""


def heeded() -> list[signal.Signals]:
    """The signals by which this process may be asked to stop, as things are now."""
    return [number for number in (*ENDING, *RESERVED) if _is_heeded(number)]


def _is_heeded(number: signal.Signals) -> bool:
    handler = signal.getsignal(number)  # None: a library's, which Python could not bring back
    if number in RESERVED and handler is not signal.SIG_DFL:
        return isinstance(getattr(handler, "__self__", None), StopRequest)
    return handler not in (signal.SIG_IGN, None)


class StopRequest:
    """Truthy as `requested` once a signal came. A context manager: outside it, signals act as before."""

    _current: ClassVar[StopRequest | None] = None  # the innermost that is entered

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._around: StopRequest | None = None

    @property
    def requested(self) -> bool:
        return self.number != 0

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name if self.number else ""

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._around, StopRequest._current = StopRequest._current, self
            self.number = self._around.number if self._around else 0
            for number in heeded():
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if StopRequest._current is self:
            StopRequest._current = self._around

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            return
        self.number = number
        for each in INSISTING:
            if each in self._previous:
                signal.signal(each, signal.SIG_DFL)  # the system ends us, even inside a call that never returns
        with suppress(OSError, ValueError):  # the terminal may be what is gone
            if sys.stderr.isatty() and int(os.environ.get("RANK", 0)) == 0:
                # Not print(): that may be what the signal interrupted. First, the cursor that a progress bar hides.
                os.write(sys.stderr.fileno(), b"\x1b[?25h\nfinishing this step and saving; once more ends at once\n")


def ask_to_stop() -> None:
    """Ask this process, from any of its threads. For one that was asked already it is no second time."""
    current = StopRequest._current
    if current is None or not current.requested:
        os.kill(os.getpid(), signal.SIGTERM)
