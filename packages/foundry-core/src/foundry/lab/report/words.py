"""How values are written on the page: one spelling for each kind."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import cache

from foundry.lab.report.contents import Interval
from foundry.lab.report.markup import Markup, el

OUTCOMES = {
    # outcome: (sign, words, what it means)
    "baseline": ("◆", "baseline", "the control that every arm is compared with"),
    "promoted": ("✓", "promoted", "it won on fresh seeds and became a baseline"),
    "won": ("✓", "won", "it won on fresh seeds; it was not promoted"),
    "kept": ("+", "kept for now", "a search goes on with it until an audit decides"),
    "inconclusive": ("≈", "inconclusive", "the largest number of pairs was used up without a decision"),
    "rejected": ("✕", "rejected", "on fresh seeds it is no improvement"),
    "screened_out": ("↓", "screened out", "others did better in the screening"),
    "described": ("·", "described", "an ablation measured it, and decides nothing"),
    "failed": ("!", "failed", "its runs crashed or diverged"),
    "refused": ("∅", "refused", "the mutation is impossible: nothing was trained"),
    "open": ("…", "open", "not finished"),
}
MINUS, NOTHING = "−", "–"


@cache
def outcome(name: str) -> Markup:
    """The badge of an outcome: a sign, a word and a colour, of which each alone would do."""
    sign, words, meaning = OUTCOMES[name]
    return el("span", el("span", sign, aria_hidden="true", class_="sign"), words, class_=f"badge {name}", title=meaning)


def signed(value: float, digits: int = 4) -> str:
    """+0.0123, with a minus sign as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def span(interval: Interval | None) -> str:
    """[+0.0081, +0.0165] (95 %)"""
    if interval is None or interval["low"] is None or interval["high"] is None:
        return ""
    level = interval["confidence"]
    sure = "" if level is None else f" ({100 * level:.3g}\u00a0%)"
    return f"[{signed(interval['low'])}, {signed(interval['high'])}]{sure}"


def loss(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def amount(value: float | None) -> str:
    """12_300_000 -> 12.3M: tokens, FLOPs."""
    if value is None:
        return NOTHING
    if value == 0 or not math.isfinite(value):
        return str(value)
    power = min(max(int(math.log10(abs(value)) // 3), 0), 6)
    scaled = value / 1000**power
    return f"{scaled:.3g}{['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}" if power else f"{value:.0f}"


def trained(interval: Interval) -> str:
    """At which budget an effect was measured: `250 steps, 32k tokens`."""
    steps, tokens = interval["steps"], interval["tokens"]
    parts = (
        interval["budget"] if steps is None else count(round(steps), "step"),
        None if tokens is None else f"{amount(tokens)} tokens",
    )
    return ", ".join(part for part in parts if part)


def named(metric: str, unit: str) -> str:
    """`val_loss, nats`"""
    return ", ".join(filter(None, (metric, unit)))


def duration(seconds: float | None) -> str:
    """95.2 -> 1 min 35 s"""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(seconds: float) -> Markup:
    """A point in time, in UTC: the page looks the same wherever it is read."""
    at = datetime.fromtimestamp(seconds, UTC)
    return el("time", at.strftime("%Y-%m-%d %H:%M"), datetime=at.isoformat(timespec="seconds"), title="UTC")


def percent(share: float) -> str:
    """8.3 %, 12 %, with a space that no line is broken at."""
    return f"{100 * share:.2g}\u00a0%" if share < 1 else "100\u00a0%"


def count(n: int, one: str, many: str = "") -> str:
    """1 arm, 2 arms, 1,234 arms"""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
