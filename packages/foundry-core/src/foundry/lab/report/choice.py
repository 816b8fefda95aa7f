"""The choice of a budget and a metric. Without its script, the page shows the first group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from foundry.lab.report import limits, words
from foundry.lab.report.contents import Group
from foundry.lab.report.markup import Markup, el


def control(groups: Sequence[Group], found: int) -> Markup | None:
    """What is shown of the groups, and what chooses another one.

    Args:
        found: groups that there are.
    """
    if not groups:
        return None
    first = groups[0]
    several = len(groups) > 1
    return el(
        "form",
        el("p", "One budget, one metric", class_="title"),
        el("p", f"{first['budget']}, {words.named(first['metric'], first['unit'])}", class_="one"),
        _select("budget", (group["budget"] for group in groups)) if several else None,
        _select("metric", (group["metric"] for group in groups)) if several else None,
        el("output", class_="muted", for_="group-budget group-metric") if several else None,
        el("noscript", "The others need JavaScript.") if several else None,
        el("p", f"Here are the {limits.GROUPS} largest of {found:,} pairs of a budget and a metric.", class_="muted")
        if found > limits.GROUPS
        else None,
        class_="choice",
        id="choice",
        aria_label="budget and metric",
    )


def each(groups: Sequence[Group], draw: Callable[[Group, int], Markup]) -> list[Markup]:
    """What is drawn of every group, of which only the first is seen at first."""
    return [
        el("div", draw(group, number), data_group=str(number), hidden=number > 0) for number, group in enumerate(groups)
    ]


def _select(name: str, values: Iterable[str]) -> Markup:
    """The script that serves it shows it."""
    options = (el("option", value, value=value) for value in dict.fromkeys(values))
    return el("label", el("span", name), el("select", options, name=name, id=f"group-{name}"), hidden=True)
