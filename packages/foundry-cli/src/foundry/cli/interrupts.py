"""Ctrl-C ends a command with one line and exit 130, at whichever instant it comes.

While a command runs, it raises KeyboardInterrupt, so that what is open is closed. Before and after, and while a module
is imported, the process ends at once. (A sweep or a training takes the signal over, to save what it has.)
"""

# Imported before the first handler is there, so this module itself imports what Python has loaded already.
from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
IMPORTING = "<frozen importlib._bootstrap>"


def take_over() -> bool:
    """From now on SIGINT is ours. False: it is not, as where a shell has it ignored by what runs in the background."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    signal.signal(signal.SIGINT, leave)
    sys.unraisablehook = _unraisable
    return True


class Interruptible:
    """Inside, SIGINT raises KeyboardInterrupt, if it is ours."""

    def __enter__(self) -> None:
        if signal.getsignal(signal.SIGINT) is leave:
            signal.signal(signal.SIGINT, _interrupt)

    def __exit__(self, *_: object) -> None:
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, leave)


def leave(*_: object) -> None:
    """End the process."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """In the middle of an import numpy would turn the exception into an ImportError, and torch, in C++, into an
    abort."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _unraisable(failure: sys.UnraisableHookArgs) -> None:
    """Else a KeyboardInterrupt in the middle of a callback would be printed with its traceback, and forgotten."""
    if failure.exc_type is KeyboardInterrupt:
        leave()
    sys.__unraisablehook__(failure)
