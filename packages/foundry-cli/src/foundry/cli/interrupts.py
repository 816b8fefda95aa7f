"""Ctrl-C, SIGTERM and a terminal that closes (SIGHUP) end a command with one line and exit 128 + the signal's number,
at whichever instant they come.

While a command runs, they raise KeyboardInterrupt, so that what is open is closed. Before and after, and while a module
is imported, the process ends at once. (A sweep or a training takes the signals over, to save what it has.)
"""

# Imported before the first handler is there, so this module itself imports what Python has loaded already.
from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal is gone"}
CODES = tuple(128 + number for number in NUMBERS)  # as a shell reports them
IMPORTING = "<frozen importlib._bootstrap>"


class Interrupt(KeyboardInterrupt):
    """One of the three."""

    def __init__(self, number: int) -> None:
        super().__init__(WORDS[signal.Signals(number)])
        self.number = number


def take_over() -> bool:
    """From now on the signals are ours, but for those that are ignored: SIGHUP under nohup, SIGINT in what a shell runs
    in the background. A rank leaves them to its launcher. False: none of them is ours."""
    if "RANK" in os.environ:
        return False
    for number in NUMBERS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, leave)
    sys.unraisablehook = _unraisable
    return any(signal.getsignal(number) is leave for number in NUMBERS)


class Interruptible:
    """Inside, the signals that are ours raise an Interrupt. It leaves as one, whatever became of it on the way: typer
    makes an exit code of it, which is SIGINT's, and a library may take it for an error of its own.

    Raises:
        Interrupt: one of them came.
    """

    def __enter__(self) -> None:
        self.number = 0
        _exchange(leave, self._interrupt)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        _exchange(self._interrupt, leave)
        if self.number and not isinstance(error, Interrupt):
            raise Interrupt(self.number) from error

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """In the middle of an import numpy would turn the exception into an ImportError, and torch, in C++, into an
        abort."""
        while frame is not None:
            if frame.f_code.co_filename == IMPORTING:
                leave(number)
            frame = frame.f_back
        self.number = number
        raise Interrupt(number)


def _exchange(before: object, now: object) -> None:
    for number in NUMBERS:
        if signal.getsignal(number) == before:
            signal.signal(number, now)  # type: ignore[arg-type]


def leave(number: int, frame: FrameType | None = None) -> None:
    """End the process."""
    try:  # noqa: SIM105 - contextlib would be an import
        os.write(2, f"{WORDS[signal.Signals(number)]}\n".encode())
    except OSError:
        pass  # the terminal is gone
    os._exit(128 + number)


def _unraisable(failure: sys.UnraisableHookArgs) -> None:
    """Else a KeyboardInterrupt in the middle of a callback would be printed with its traceback, and forgotten."""
    if isinstance(failure.exc_value, KeyboardInterrupt):
        leave(getattr(failure.exc_value, "number", signal.SIGINT))
    sys.__unraisablehook__(failure)
