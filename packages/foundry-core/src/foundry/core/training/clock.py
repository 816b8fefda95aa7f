"""Time that counts as training: evaluation, sampling and saving are left out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """A stopwatch that goes on from the seconds of a resumed run."""

    def __init__(self) -> None:
        self._before = self._waited = self._lap_seconds = 0.0
        self._lap_counts: tuple[int, ...] = ()
        self._since: float | None = None

    def start(self, seconds: float, *counts: int) -> None:
        """Go on from `seconds`, and from what `lap` counts, as it is now."""
        self._before = self._lap_seconds = seconds
        self._lap_counts = counts
        self._since = time.perf_counter()

    def read(self) -> float:
        """Seconds so far."""
        return self._before + (time.perf_counter() - self._since if self._since is not None else 0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._before, self._since = self.read(), None
        try:
            yield
        finally:
            self._since = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time inside is spent waiting for rows."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def lap(self, *counts: int) -> tuple[float, float, tuple[int, ...]]:
        """Seconds, seconds of waiting, and how much each count has grown, all since the last call."""
        seconds = self.read()
        elapsed, waited = seconds - self._lap_seconds, self._waited
        grown = tuple(now - before for now, before in zip(counts, self._lap_counts, strict=True))
        self._lap_seconds, self._lap_counts, self._waited = seconds, counts, 0.0
        return elapsed, waited, grown
