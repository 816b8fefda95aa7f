"""The long lists: which arms did best, what was tried and not kept, every trial. The page's script sorts and filters
them; without it they are whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from foundry.lab.report import intervals, limits, words
from foundry.lab.report.contents import ArmEntry, Group, Interval, TrialEntry
from foundry.lab.report.lineage import changes
from foundry.lab.report.markup import Child, Markup, el

PAGE = 25
"""Rows that are shown at first."""


class Column(NamedTuple):
    title: Child
    kind: str = "text"  # number: aligned right and sorted as such; figure: a drawing; prose: more than a few words
    sort: str = ""  # ascending or descending: how the rows come; "" = they are not sorted by it
    label: str = ""  # before the value where the screen is too narrow for a head; "" = it speaks for itself


class TableCell(NamedTuple):
    shown: Child
    value: str | float | None = ""  # what it is sorted by; "" = what is shown


class Row(NamedTuple):
    cells: Sequence[TableCell]
    outcome: str
    types: Sequence[str] = ()
    generation: int | None = None


def leaderboard(arms: Sequence[ArmEntry], group: Group, number: int, most: int) -> Markup:
    """The arms of a group by what is sure of them, the lower end of the interval; behind them those that have none.

    Args:
        number: of the group.
        most: rows.
    """
    ranked = arms[:most]
    # The scale is that of the rows which are seen at first: what is far worse goes beyond its edge.
    scale = intervals.AxisScale.of((arm["difference"] for arm in ranked[:PAGE]), group["smallest_decidable"])
    columns = (
        Column("#", "number", "ascending"),
        Column("arm"),
        Column("outcome"),
        Column("against", "number", label="against"),
        Column((f"better by, {group['unit']}" if group["unit"] else "better by", intervals.axis(scale)), "figure"),
        Column("difference", "number"),
        Column("n", "number", label="n"),
        Column(el("span", group["metric"], class_="measured"), "number", label=group["metric"]),
        Column("trained for", "number"),
        Column("FLOPs", "number", label="FLOPs"),
    )
    rows = [
        Row(_ranked(rank, arm, difference, scale), arm["outcome"], arm["types"], arm["generation"])
        for rank, arm in enumerate(ranked, 1)
        if (difference := arm["difference"]) is not None
    ]
    left = _left_out(len(arms), most, "best", "arms", "what=decision")
    caption = f"Arms by the lower end of their interval, at {group['budget']} by {group['metric']}"
    return table(f"leaderboard-{number}", caption, columns, rows, "arms", left)


def _ranked(rank: int, arm: ArmEntry, difference: Interval, scale: intervals.AxisScale) -> tuple[TableCell, ...]:
    source = "fresh seeds" if difference["confirmed"] else "screening"
    sure = difference["low"] is not None
    figures = (
        el("strong", words.signed(difference["effect"])),
        el("span", words.span(difference) or "no interval", class_="muted block"),
    )
    return (
        TableCell(str(rank) if sure else words.NOTHING, rank if sure else None),
        _name(arm),
        TableCell(words.outcome(arm["outcome"]), arm["outcome"]),
        _generation(arm["generation"]),
        TableCell(intervals.draw(difference, scale, arm["outcome"]), difference["low"]),
        TableCell(figures, difference["effect"]),
        TableCell((str(difference["n"]), el("span", source, class_="muted block")), difference["n"]),
        TableCell(words.loss(arm["loss"]), arm["loss"]),
        _trained(difference),
        TableCell(words.amount(arm["flops"]), arm["flops"]),
    )


def _trained(difference: Interval) -> TableCell:
    first, _, rest = words.trained(difference).partition(", ")
    return TableCell((first, el("span", rest, class_="muted block") if rest else None), difference["tokens"])


def not_kept(arms: Sequence[ArmEntry]) -> Markup:
    """What was tried and did not become a baseline: why, and what it would have changed. Newest first."""
    columns = (
        Column("outcome"),
        Column("arm"),
        Column("against", "number", "descending", "against"),
        Column("why", "prose"),
        Column("what it changed", "prose"),
    )
    order = list(words.OUTCOMES)
    every = [arm for arm in arms if arm["outcome"] not in ("promoted", "kept", "open")]
    newest = sorted(every, key=lambda arm: (-arm["generation"], order.index(arm["outcome"])))[: limits.ROWS]
    rows = [
        Row(
            (
                TableCell(words.outcome(arm["outcome"]), arm["outcome"]),
                _name(arm),
                _generation(arm["generation"]),
                TableCell(arm["reason"] or words.NOTHING),
                TableCell(changes(arm["changes"]) or words.NOTHING),
            ),
            arm["outcome"],
            arm["types"],
            arm["generation"],
        )
        for arm in newest
    ]
    left = _left_out(len(every), limits.ROWS, "newest", "arms", "what=decision,refusal")
    return table("not-kept", "Arms that did not become a baseline", columns, rows, "arms", left)


def trials(entries: Sequence[TrialEntry], metric: str) -> Markup:
    """Every training run, newest first.

    Args:
        metric: what a result is of, where nothing is said beside it.
    """
    columns = (
        Column("#", "number", "descending"),
        Column("trial"),
        Column("arm"),
        Column("against", "number", label="against"),
        Column("role"),
        Column("budget", "number", label="budget"),
        Column("status"),
        Column(metric, "number", label="result"),
        Column("tokens", "number", label="tokens"),
        Column("FLOPs", "number", label="FLOPs"),
        Column("time", "number"),
        Column("note", "prose"),
    )
    rows = [
        Row(
            (
                TableCell(str(number), number),
                TableCell(el("code", trial["id"][:8], class_="whole", title=f"{trial['id']}, seed {trial['seed']}")),
                _name(trial),
                _generation(trial["generation"]),
                TableCell(trial["role"]),
                _trained_for(trial),
                TableCell(el("span", trial["status"], class_=f"status {trial['status']}")),
                _result(trial, metric),
                TableCell(words.amount(trial["tokens"]), trial["tokens"]),
                TableCell(words.amount(trial["flops"]), trial["flops"]),
                TableCell(el("span", words.duration(trial["seconds"]), class_="whole"), trial["seconds"]),
                TableCell(_note(trial)),
            ),
            trial["outcome"],
            generation=trial["generation"],
        )
        for number, trial in reversed(
            [*enumerate(entries[-limits.ROWS :], len(entries) - len(entries[-limits.ROWS :]) + 1)]
        )
    ]
    left = _left_out(len(entries), limits.ROWS, "newest", "trials", "what=trial")
    return table("trials", "Every training run, newest first", columns, rows, "trials", left)


def _left_out(found: int, most: int, which: str, what: str, terms: str) -> Markup | None:
    """Where the rest of a table is, if it has one."""
    if found <= most:
        return None
    said = f"Here are the {which} {most} of {found:,} {what}. All of them: "
    return el("p", said, el("code", f"foundry query {terms} --json"), class_="lead")


def table(
    name: str, caption: str, columns: Sequence[Column], rows: Sequence[Row], what: str, note: Markup | None = None
) -> Markup:
    """A table with what filters it. The controls are hidden until the script that serves them is there."""
    head = (
        el(
            "th",
            el("button", column.title, type="button", class_="sort"),
            scope="col",
            class_=column.kind,
            aria_sort=column.sort or "none",
        )
        for column in columns
    )
    body = (
        el(
            "tr",
            (_cell(column, cell) for column, cell in zip(columns, row.cells, strict=True)),
            data_outcome=row.outcome,
            data_types=" ".join(row.types) or None,
            data_generation=None if row.generation is None else str(row.generation),
        )
        for row in rows
    )
    return el(
        "div",
        note,
        _controls(name, rows, what),
        el(
            "div",
            el("table", el("caption", caption, class_="hidden"), el("thead", el("tr", head)), el("tbody", body)),
            class_="scroll",
            tabindex="0",
            role="region",
            aria_label=caption,
        ),
        el("p", class_="more", hidden=True),
        class_="long",
        id=name,
        data_page=str(PAGE),
        data_what=what,
    )


def _controls(name: str, rows: Sequence[Row], what: str) -> Markup:
    outcomes = [outcome for outcome in words.OUTCOMES if any(row.outcome == outcome for row in rows)]
    types = sorted({type for row in rows for type in row.types})
    generations = sorted({row.generation for row in rows if row.generation is not None}, reverse=True)
    return el(
        "form",
        el("label", el("span", "find", class_="hidden"), el("input", type="search", placeholder=f"find in {what}")),
        _choice("outcome", "every outcome", ((each, words.OUTCOMES[each][1]) for each in outcomes)),
        _choice("types", "every type", ((each, each) for each in types)) if types else None,
        _choice("generation", "every generation", ((str(each), f"generation {each}") for each in generations)),
        el("output", class_="count", for_=name, aria_live="polite"),
        class_="controls",
        hidden=True,
        role="search",
    )


def _choice(key: str, every: str, options: Iterable[tuple[str, str]]) -> Markup:
    return el(
        "label",
        el("span", key, class_="hidden"),
        el("select", el("option", every, value=""), (el("option", t, value=v) for v, t in options), name=key),
    )


def _cell(column: Column, cell: TableCell) -> Markup:
    value = cell.value
    if value is None:
        value = "none"
    elif not isinstance(value, str):
        value = repr(value)
    kind = column.kind if column.kind != "text" else None
    return el("td", cell.shown, class_=kind, data_v=value or None, data_label=column.label or None)


def _name(entry: ArmEntry | TrialEntry) -> TableCell:
    on = el("span", f"on top of {entry['on']}", class_="muted block") if entry["on"] else None
    return TableCell((el("span", entry["arm"], class_="arm"), on), entry["arm"])


@cache
def _generation(number: int | None) -> TableCell:
    if number is None:
        return TableCell(words.NOTHING, None)
    return TableCell(el("a", str(number), href=f"#generation-{number}", aria_label=f"generation {number}"), number)


def _trained_for(trial: TrialEntry) -> TableCell:
    """The budget, and in steps if it says it otherwise."""
    steps = None if trial["steps"] is None else words.count(trial["steps"], "step")
    other = el("span", steps, class_="muted block") if steps not in (None, trial["budget"]) else None
    return TableCell((trial["budget"], other), trial["tokens"])


def _result(trial: TrialEntry, metric: str) -> TableCell:
    other = el("span", trial["metric"], class_="muted block") if trial["metric"] != metric else None
    return TableCell((words.loss(trial["loss"]), other), trial["loss"])


def _note(trial: TrialEntry) -> str:
    retried = f"attempt {trial['attempts']}" if trial["attempts"] > 1 else ""
    return "; ".join(filter(None, (trial["reason"], retried)))
