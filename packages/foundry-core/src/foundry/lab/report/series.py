"""What the charts are drawn from, as JSON that no content can end."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeAlias

from foundry.lab.report import limits, words
from foundry.lab.report.arms import KEPT
from foundry.lab.report.contents import Contents, Group, GroupKey, TrialEntry
from foundry.lab.report.groups import grouped, value_of
from foundry.lab.report.markup import text
from foundry.lab.report.runs import spread

Dot: TypeAlias = tuple[int, float | None, TrialEntry]
"""A trial by its number, with its value in the metric of a group; None: it failed."""


def series(contents: Contents, groups: Sequence[Group]) -> str:
    """Of these groups. `<` and `>` are escaped."""
    dots = _dots(contents)
    most = limits.shared([group["trials"] for group in groups], limits.DOTS)
    budgets = {group["budget"] for group in groups}
    told: dict[str, Any] = {
        "outcomes": {name: list(written) for name, written in words.OUTCOMES.items()},
        "groups": [_group(group, dots[group["budget"], group["metric"]], n)
                   for group, n in zip(groups, most, strict=True)],
        "generations": [each["number"] for each in contents["generations"]],
        "curves": [curve for curve in contents["curves"] if curve["budget"] in budgets],
    }  # fmt: skip
    plain = json.dumps(_clean(told), separators=(",", ":"), allow_nan=False)
    return plain.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _dots(contents: Contents) -> dict[GroupKey, list[Dot]]:
    found: dict[GroupKey, list[Dot]] = defaultdict(list)
    for key, number, trial in grouped(contents["trials"]):
        value = value_of(trial, key[1])
        if value is not None or trial["status"] == "failed":
            found[key].append((number, value, trial))
    return found


def _group(group: Group, dots: Sequence[Dot], most: int) -> dict[str, Any]:
    return {
        **{key: group[key] for key in ("budget", "metric", "unit", "curves")},
        "higher": group["higher_is_better"],
        "baselines": [[each["generation"], each["value"]] for each in group["baselines"]],
        "dots": [
            [number, trial["generation"], value, trial["outcome"], trial["arm"], trial["on"]]
            for number, value, trial in _thinned(dots, most, sign=-1 if group["higher_is_better"] else 1)
        ],
    }


def _thinned(dots: Sequence[Dot], most: int, *, sign: int) -> list[Dot]:
    """At most so many of them: what was kept, what was the best of its time, and of the rest every so many.

    Args:
        sign: -1 where more is better.
    """
    if len(dots) <= most:
        return list(dots)
    best = math.inf
    marked: list[Dot] = []
    rest: list[Dot] = []
    for dot in dots:
        value = math.inf if dot[1] is None else sign * dot[1]
        (marked if value < best or dot[2]["outcome"] in KEPT else rest).append(dot)
        best = min(best, value)
    marked = spread(marked, most // 2)
    return sorted([*marked, *spread(rest, most - len(marked))], key=lambda dot: dot[0])


def _clean(value: Any) -> Any:
    """Text as it may be shown, and numbers that JSON has: what is not finite becomes null."""
    match value:
        case str():
            return text(value)
        case float():
            return value if value - value == 0 else None
        case dict():
            return {key: _clean(each) for key, each in value.items()}
        case list() | tuple():
            # A curve's points are looked at right here: there are 100,000 of them.
            return [each if type(each) is float and each - each == 0 else _clean(each) for each in value]
        case _:
            return value
