"""Being asked to stop, by a signal: what is under way ends at its next step, and saves.

    SIGINT     Ctrl-C
    SIGTERM    kill, a scheduler, a container that is stopped
    SIGHUP     the terminal is gone
    SIGXCPU    the limit of processor time is near
    SIGUSR1, SIGUSR2    what schedulers send a while before they kill

The default of each is to end the process at once, with nothing saved. A signal that was ignored when the process
began stays ignored, as SIGHUP under nohup, and so does a handler of somebody else's for the last three: what dumps its
stacks on SIGUSR1 goes on doing so.

Signals belong to the whole process. So of several `StopRequest`s, one inside the other - a training inside a sweep -
the outermost alone has the handlers, and all of them learn what it notes.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
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
    if number in RESERVED:
        return isinstance(handler, Interrupt) or (handler is signal.SIG_DFL and not _is_caught(number))
    return handler not in (signal.SIG_IGN, None)


def _is_caught(number: signal.Signals) -> bool:
    """Whether the process has a handler, be it one that Python does not know of, as that of `faulthandler.register`;
    False where the system does not tell."""
    with suppress(OSError):
        if caught := re.search(r"^SigCgt:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE):
            return bool(int(caught[1], 16) >> (number - 1) & 1)
    return False


class Interrupt:
    """From now on a signal raises KeyboardInterrupt, wherever no `StopRequest` notes it. For a process that has
    something to give back when it leaves, though nothing to save."""

    def __init__(self) -> None:
        self.came = False
        for number in heeded():
            signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt  # raised while a plugin is imported, anything else would be the plugin's fault


class StopRequest:
    """Truthy as `requested` once a signal came, or somebody asked. A context manager: outside it, signals act as
    before."""

    _current: ClassVar[StopRequest | None] = None  # the innermost that is entered

    def __init__(self) -> None:
        self._number = 0
        self._is_asked = False
        self._previous: dict[signal.Signals, Any] = {}
        self._around: StopRequest | None = None

    @property
    def requested(self) -> bool:
        return self._is_asked or (self._around.requested if self._around else self._number != 0)

    @property
    def number(self) -> int:
        """Of the signal that came; 0 without one."""
        return self._around.number if self._around else self._number

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name if self.number else ""

    def ask(self) -> None:
        """Ask what goes on inside to stop, and nothing around it. From any thread."""
        self._is_asked = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._around, StopRequest._current = StopRequest._current, self
            if self._around is None:
                self._previous = {number: signal.signal(number, self._note) for number in heeded()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if StopRequest._current is self:
            StopRequest._current = self._around

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._number:
            return
        self._number = number
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
