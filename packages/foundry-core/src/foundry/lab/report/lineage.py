"""The lineage as a tree, newest generation first: the current one and what it comes from in the leftmost lane, what a
rollback left behind in lanes of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from foundry.lab.report import intervals, words
from foundry.lab.report.contents import GenerationEntry, Interval
from foundry.lab.report.markup import Markup, el

LANE, LEFT, DOT = 20, 14, 24  # pixels: between lanes, before the first, from a row's top to its dot
KINDS = {"promoted": ("✓", "promoted"), "manual": ("✎", "by hand"), "rollback": ("↩", "rollback")}


def lineage(generations: Sequence[GenerationEntry], metric: str, unit: str) -> Markup:
    """Every generation with its kind, what changed, and the gain that made it one. Gains in one metric are drawn; those
    in others are told."""
    lanes = lanes_of(generations)
    gains = [gain for each in generations if (gain := each["gain"]) and gain["metric"] == metric]
    scale = intervals.AxisScale.of(gains)
    rows = [_row(each, generations, lanes, scale, metric) for each in reversed(generations)]
    axis = intervals.axis(scale) if gains else el("span")
    head = el("div", el("span", f"gain in {words.named(metric, unit)}"), axis, el("span"), class_="gain")
    width = LEFT + LANE * (max(lanes.values(), default=0) + 1)
    return el("div", head, el("ol", rows), class_="lineage", style=f"--graph: {width}px")


def lanes_of(generations: Sequence[GenerationEntry]) -> dict[int, int]:
    """Generation -> lane. Branches share a lane where they do not overlap."""
    parents = {each["number"]: each["parent"] for each in generations}
    current = next((each["number"] for each in generations if each["current"]), None)
    lanes = dict.fromkeys(_ancestry(current, parents), 0)
    taken: list[list[tuple[int, int]]] = []  # per lane from 1 on: (join, tip) of the branches in it
    for tip in sorted(parents, reverse=True):
        if tip in lanes:
            continue
        branch = [number for number in _ancestry(tip, parents) if number not in lanes]
        join = parents[branch[-1]]
        first = branch[-1] if join is None else join
        free = (i for i, lane in enumerate(taken) if all(tip < a or b < first for a, b in lane))
        lane = next(free, len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((first, tip))
        lanes |= dict.fromkeys(branch, lane + 1)
    return lanes


def _ancestry(number: int | None, parents: dict[int, int | None]) -> list[int]:
    """A generation and those that it comes from, newest first."""
    found: list[int] = []
    while number is not None and number in parents and number not in found:
        found.append(number)
        number = parents[number]
    return found


def _row(
    entry: GenerationEntry,
    generations: Sequence[GenerationEntry],
    lanes: dict[int, int],
    scale: intervals.AxisScale,
    metric: str,
) -> Markup:
    number, gain = entry["number"], entry["gain"]
    sign, kind = KINDS[entry["kind"]]
    state = "current" if entry["current"] else "left" if entry["undone_by"] is not None else ""
    notes = [
        words.moment(entry["created"]),
        f"{gain['metric'] if gain else 'loss'} {words.loss(entry['loss'])}" if entry["loss"] is not None else None,
        words.count(entry["tried"], "arm") + " tried against it" if entry["tried"] else None,
        f"measured at {gain['budget']}, its own budget is {entry['own_budget']}"
        if gain and entry["below_own_budget"]
        else None,
        f"sign held at {entry['guard']}" if entry["guard"] else None,
        f"undone by generation {entry['undone_by']}" if entry["undone_by"] is not None else None,
    ]
    heading = el(
        "h3",
        el("span", f"Generation {number}", class_="number"),
        el("code", entry["summary"], class_="summary"),
        el("span", el("span", sign, aria_hidden="true", class_="sign"), kind, class_=f"badge kind-{entry['kind']}"),
        el("span", "current baseline", class_="badge now") if entry["current"] else None,
        _short(entry) if entry["below_own_budget"] else None,
    )
    return el(
        "li",
        _graph(entry, generations, lanes),
        el(
            "div",
            heading,
            el("div", (el("span", note) for note in notes if note is not None), _more(entry), class_="notes"),
            class_="what",
        ),
        el(
            "div",
            intervals.draw(gain if gain and gain["metric"] == metric else None, scale, "promoted"),
            _figures(gain, metric) if gain else None,
            class_="gain",
        ),
        class_=f"generation {state}".strip(),
        id=f"generation-{number}",
    )


def _short(entry: GenerationEntry) -> Markup:
    """The mark of a gain that was measured in trainings shorter than the baseline's own."""
    meaning = "The gain of a short training may be none in a long one: confirm it with the whole budget."
    return el("span", el("span", "△", aria_hidden="true", class_="sign"), "short evidence", class_="badge short",
              title=meaning)  # fmt: skip


def _figures(gain: Interval, metric: str) -> Markup:
    return el(
        "p",
        el("strong", words.signed(gain["effect"])),
        None if gain["metric"] == metric else el("span", f" {gain['metric']}", class_="muted"),
        el("span", words.span(gain), class_="muted block"),
        el("span", f"{words.count(gain['n'], 'pair')} at {words.trained(gain)}", class_="muted block"),
    )


def _more(entry: GenerationEntry) -> Iterator[Markup]:
    if entry["changes"]:
        why = el("p", entry["reason"]) if entry["reason"] else None
        yield el("details", el("summary", "what changed"), why, changes(entry["changes"]))
    if entry["ancestry"]:
        yield el("details", el("summary", "what came before, as its file tells"), changes(entry["ancestry"]))


def changes(lines: Sequence[str]) -> Markup | None:
    """Lines such as `key: before -> after`."""
    return el("ul", (el("li", el("code", line)) for line in lines), class_="changes") if lines else None


def _graph(entry: GenerationEntry, generations: Sequence[GenerationEntry], lanes: dict[int, int]) -> Markup:
    """This row's part of the tree: lines that pass, lines that begin or end here, and the dot."""
    number, own = entry["number"], lanes[entry["number"]]
    parts = []
    for child in generations:
        parent, lane = child["parent"], lanes[child["number"]]
        if parent is None or parent not in lanes:
            continue
        style = f"edge {child['kind']}" + (" left" if child["undone_by"] is not None else "")
        if parent < number < child["number"]:
            parts.append(_line(lane, "0", "100%", style))
        elif number == child["number"]:
            parts.append(_line(lane, DOT, "100%", style))
        elif number == parent and lane == own:
            parts.append(_line(lane, "0", DOT, style))
        elif number == parent:
            x, to = _x(lane), _x(own)
            parts.append(el("path", d=f"M{x} 0 C{x} {DOT * 0.7:.0f} {x} {DOT} {to} {DOT}", class_=style))
    shape = {"rollback": "M{0} {1}l7 7l-7 7l-7 -7z", "manual": "M{2} {3}h12v12h-12z"}.get(entry["kind"])
    x, style = _x(own), f"node {entry['kind']}" + (" current" if entry["current"] else "")
    if shape is None:
        parts.append(el("circle", cx=x, cy=DOT, r=6.5, class_=style))
    else:
        parts.append(el("path", d=shape.format(x, DOT - 7, x - 6, DOT - 6), class_=style))
    return el("svg", parts, class_="graph", aria_hidden="true")


def _line(lane: int, y1: str | int, y2: str | int, style: str) -> Markup:
    return el("line", x1=_x(lane), x2=_x(lane), y1=y1, y2=y2, class_=style)


def _x(lane: int) -> int:
    return LEFT + LANE * lane
