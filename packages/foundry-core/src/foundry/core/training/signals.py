"""SIGINT and SIGTERM ask for a stop at the next step; a second one ends the process at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Self


class StopRequest:
    """Truthy as `requested` once a signal came. A context manager: outside it, signals act as before."""

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        return self.number != 0

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name if self.number else ""

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)  # the system ends us, even inside a call that never returns
        if sys.stderr.isatty() and int(os.environ.get("RANK", 0)) == 0:
            # Not print(): that may be what the signal interrupted. First, the cursor that a progress bar hides.
            os.write(sys.stderr.fileno(), b"\x1b[?25h\nfinishing this step and saving; once more ends at once\n")
