"""Differences with their intervals, drawn on one scale, so that a column of them can be read from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from foundry.lab.report.contents import Interval
from foundry.lab.report.markup import Markup, el
from foundry.lab.report.words import MINUS

WIDTH, HEIGHT, MARGIN = 250, 22, 8  # pixels


@dataclass(frozen=True)
class AxisScale:
    """From differences to pixels."""

    low: float
    high: float
    decidable: float | None = None  # below this size no sweep can tell a difference from none

    @classmethod
    def of(cls, intervals: Iterable[Interval | None], decidable: float | None = None) -> AxisScale:
        """Around most of the intervals, and 0. One in twenty ends on the left may lie outside: a diverged arm is not
        worth making all others unreadable."""
        drawn = [each for each in intervals if each is not None]
        lows = sorted(each["effect"] if each["low"] is None else each["low"] for each in drawn)
        highs = [each["effect"] if each["high"] is None else each["high"] for each in drawn]
        low = min(0.0, lows[len(lows) // 20]) if lows else 0.0
        high = max(0.0, *highs) if highs else 0.0
        width = (high - low) or 1.0
        return cls(max(low, -2 * high) if high > 0 else low, max(high, low + width), decidable)

    def x(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return MARGIN + min(max(share, 0.0), 1.0) * (WIDTH - 2 * MARGIN)

    @property
    def ticks(self) -> Iterator[float]:
        """About five round numbers, 0 among them."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / 3))
        step *= next(factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= 5)
        first = math.ceil(self.low / step)
        return (i * step for i in range(first, math.floor(self.high / step) + 1))


def axis(scale: AxisScale) -> Markup:
    """The numbers above a column of intervals."""
    labels = [
        el("text", f"{tick:+.3g}".replace("-", MINUS) if tick else "0", x=scale.x(tick), y=14.0, text_anchor="middle")
        for tick in scale.ticks
    ]
    return el("svg", labels, class_="axis", width=WIDTH, height=HEIGHT, aria_hidden="true")


def draw(interval: Interval | None, scale: AxisScale, outcome: str) -> Markup:
    """The interval as a bar, the difference as a dot: full where it comes from fresh seeds, hollow from the screening.
    It is as high as the row that it stands in, so that the lines of a column join. The numbers stand beside it, so a
    screen reader passes over it."""
    parts = [*_background(scale)]
    if interval is not None:
        parts.append(el("svg", _marks(interval, scale), y="50%", overflow="visible"))  # whose y = 0 is the middle
    return el("svg", parts, class_=f"interval {outcome}", width=WIDTH, height=HEIGHT, aria_hidden="true")


@cache
def _background(scale: AxisScale) -> tuple[Markup, ...]:
    """What is behind every interval of a column."""
    lines = [_upright(scale.x(tick), "zero" if tick == 0 else "grid") for tick in scale.ticks]
    if scale.decidable is None:
        return tuple(lines)
    left, right = scale.x(-scale.decidable), scale.x(scale.decidable)
    return el("rect", x=left, width=right - left, y=0.0, height="100%", class_="undecidable"), *lines


def _marks(interval: Interval, scale: AxisScale) -> Iterator[Markup]:
    low, high = interval["low"], interval["high"]
    if low is not None and high is not None:
        yield el("line", x1=scale.x(low), x2=scale.x(high), y1=0.0, y2=0.0, class_="whisker")
        yield _end(low, scale)
        yield _end(high, scale)
    yield el(
        "circle", cx=scale.x(interval["effect"]), cy=0.0, r=4.5, class_="dot" if interval["confirmed"] else "dot hollow"
    )


def _end(value: float, scale: AxisScale) -> Markup:
    """The end of an interval: a bar, or an arrow where it goes on beyond the edge."""
    x = scale.x(value)
    if scale.low <= value <= scale.high:
        return el("line", x1=x, x2=x, y1=-4.0, y2=4.0, class_="whisker")
    inwards = 5 if value < scale.low else -5
    return el("path", d=f"M{x + inwards:.1f} -4L{x:.1f} 0L{x + inwards:.1f} 4", class_="whisker")


def _upright(x: float, kind: str) -> Markup:
    return el("line", x1=x, x2=x, y1=0.0, y2="100%", class_=kind)
