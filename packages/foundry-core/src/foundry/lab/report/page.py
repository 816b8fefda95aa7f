"""The report as one HTML page that needs nothing else: style, script and data are in it, and it asks no network.

What comes from plugins (names of arms, reasons, differences) reaches the page as text nodes, attribute values or JSON,
never as markup; a content security policy lets nothing run but the page's own script, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from importlib.resources import files
from string import Template
from typing import Any

from foundry.lab.report import limits, summary, tables, words
from foundry.lab.report.arms import KEPT
from foundry.lab.report.contents import Contents, TrialEntry
from foundry.lab.report.lineage import lineage
from foundry.lab.report.markup import Child, Markup, el, escaped, text
from foundry.lab.report.runs import spread

SCRIPTS = ("theme.js", "tables.js", "plot.js", "progress.js", "curves.js")
SECTIONS = (
    ("progress", "Progress"),
    ("lineage", "Lineage"),
    ("best", "Leaderboard"),
    ("curves", "Loss curves"),
    ("tried", "Tried and not kept"),
    ("rates", "Keep rates"),
    ("chance", "Chance"),
    ("runs", "Trials"),
)
EXPERTS = (
    " Of layers with experts it can show how many of them are used at all, and how unevenly: 0 nats where all are used "
    "alike."
)


def render(contents: Contents) -> str:
    """The page of these contents."""
    script = "\n".join(_asset(name) for name in SCRIPTS)
    fingerprint = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    is_empty = not (contents["generations"] or contents["trials"] or contents["arms"])
    body = [_top(() if is_empty else SECTIONS), _main(contents, is_empty), _footer(contents)]
    return Template(_asset("page.html")).substitute(
        title=escaped(f"Foundry: {contents['project']}"),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{fingerprint}'; base-uri 'none'",
        style=_asset("report.css"),
        body="\n".join(body),
        series=_series(contents),
        script=script,
    )


def _main(contents: Contents, is_empty: bool) -> Markup:
    unit, metric = contents["unit"], contents["metric"]
    current = next((each for each in contents["generations"] if each["current"]), None)
    noise = next((each for each in contents["noise"] if each["metric"] == metric), None)
    decidable = noise["smallest_decidable"] if noise else None
    head = el(
        "header",
        el("h1", contents["project"]),
        el(
            "p",
            f"{words.count(len(contents['trials']), 'trial')} and "
            f"{words.count(len(contents['generations']), 'generation')} by ",
            words.moment(contents["created"]),
            f" UTC, ranked by {metric}" + (f" ({unit})" if unit else ""),
        ),
        class_="title",
    )
    if is_empty:
        return el("main", head, _empty())
    return el(
        "main",
        head,
        summary.tiles(contents),
        _section(
            "progress",
            "Every run of a whole budget is a dot, the line is the baseline of its time. "
            + ("Higher is better. " if contents["higher_is_better"] else "Lower is better. ")
            + _left_out(contents)
            + "A dot that is better than the line is only a candidate until fresh seeds confirm it.",
            _chart("progress-chart", f"{metric} of every trial, in order, and the baseline's"),
        ),
        _section(
            "lineage",
            "Each baseline, newest first, and the gain that made it one: the mean difference on fresh seeds with an "
            "interval that stays valid whenever the test stopped. What a rollback left behind stands beside the line.",
            lineage(contents["generations"][-limits.GENERATIONS :], decidable, unit)
            if current
            else el("p", "No baseline is recorded yet: the first sweep imports experiments/baseline.yaml."),
        ),
        _section(
            "best",
            "Ranked by the lower end of the interval: by what is sure, to the level beside it. A full dot comes from "
            "fresh seeds; a hollow one is from the screening, where the best of many looks better than it is. "
            + ("The shaded band is too small to be decided at this noise." if decidable is not None else ""),
            tables.leaderboard(contents["arms"], decidable, unit),
        ),
        _section(
            "curves",
            "The mean over the seeds of each arm, of the best and the newest where they are many. Where a group has "
            "many, its band holds the middle 80 % of them and the dashed line is their median; point at a curve, or "
            "use the arrow keys, to see whose it is."
            + EXPERTS
            * any(curve["expert_usage"] for curve in contents["curves"]),
            _chart("curves-chart", f"{metric} of every arm while it trains"),
        ),
        _section(
            "tried",
            "Nothing is lost: rejections, crashes and mutations that were impossible keep their reason and their "
            "difference from the baseline.",
            tables.not_kept(contents["arms"]),
        ),
        _section(
            "rates",
            "Which kinds of mutation are worth trying. The interval says how much so few tries can tell.",
            summary.keep_rates(contents["keep_rates"]) if contents["keep_rates"] else el("p", "No arm was tried yet."),
        ),
        _section(
            "chance",
            "",
            *summary.chance(contents["noise"], contents["errors"], {metric: unit}),
        ),
        _section("runs", "Training runs, also those that failed.", tables.trials(contents["trials"])),
    )


def _left_out(contents: Contents) -> str:
    many = len(contents["trials"]) > limits.DOTS
    return "Not all are drawn: what was kept, the best of their time, and some of the rest. " if many else ""


def _section(name: str, lead: str, *content: Child) -> Markup:
    title = dict(SECTIONS)[name]
    return el("section", el("h2", title), el("p", lead, class_="lead") if lead else None, *content, id=name)


def _chart(name: str, label: str) -> Markup:
    """A place for a chart, which the script draws; what it shows is in the tables as well."""
    return el(
        "figure",
        el("noscript", "This chart needs JavaScript; the tables do not."),
        id=name,
        data_label=label,
        style="margin: 0",
    )


def _top(sections: tuple[tuple[str, str], ...]) -> Markup:
    mark = el(
        "svg",
        el("path", d="M4 7h13a5 5 0 0 1-5 5v2l3 4H5l3-4v-2a5 5 0 0 1-4-5z", fill="currentColor"),
        width="22", height="22", viewBox="0 0 22 22", aria_hidden="true",
    )  # fmt: skip
    links = (el("a", title, href=f"#{name}") for name, title in sections)
    theme = el("div", el("button", "theme", type="button", id="theme"), class_="theme", hidden=True)
    inner = (el("a", mark, "Foundry", href="#", class_="mark"), el("nav", links, aria_label="sections"), theme)
    return el("div", el("div", *inner), class_="top")


def _footer(contents: Contents) -> Markup:
    return el(
        "footer",
        el("p", "Made by ", el("code", "foundry report"), " from the project's ledger. ",
           el("code", "foundry why GENERATION"), " tells more of a promotion, ",
           el("code", "foundry query"), " finds arms and trials."),
    )  # fmt: skip


def _empty() -> Markup:
    steps = (
        ("foundry noise", "measures how much seeds differ, which every decision rests on."),
        ("foundry mutate --list", "lists what can be changed."),
        (
            "foundry sweep activation relu2 geglu --promote",
            "compares two mutations with the baseline, and promotes one if it wins.",
        ),
        ("foundry evolve --max-hours 8", "goes on by itself."),
    )
    return el(
        "div",
        el("h2", "Nothing was tried here yet"),
        el("p", "This page shows a project's ledger: its baselines, what was tried against them, and what came of it."),
        el("ol", (el("li", el("code", command), f" {what}") for command, what in steps)),
        class_="empty",
    )


def _series(contents: Contents) -> str:
    """What the charts are drawn from, as JSON that no content can end: `<` and `>` are escaped."""
    dots = [
        [number, trial["generation"], trial["loss"], trial["outcome"], trial["arm"], trial["on"]]
        for number, trial in _thinned(
            [
                (number, trial)
                for number, trial in enumerate(contents["trials"], 1)
                if trial["generation"] is not None and trial["role"] != "guard"
                if trial["status"] == "failed" or (trial["share"] == "1" and trial["loss"] is not None)
            ],
            sign=-1 if contents["higher_is_better"] else 1,
        )
    ]
    generations = [[each["number"], each["loss"], each["kind"]] for each in contents["generations"]]
    names = {name: list(written) for name, written in words.OUTCOMES.items()}
    series: dict[str, Any] = {
        "metric": contents["metric"], "unit": contents["unit"], "higher": contents["higher_is_better"],
        "outcomes": names,
        "trials": dots, "generations": generations, "curves": contents["curves"],
    }  # fmt: skip
    plain = json.dumps(_clean(series), separators=(",", ":"), allow_nan=False)
    return plain.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _thinned(dots: list[tuple[int, TrialEntry]], *, sign: int) -> list[tuple[int, TrialEntry]]:
    """At most DOTS of them: what was kept, what was the best of its time, and of the rest every so many.

    Args:
        sign: -1 where more is better.
    """
    if len(dots) <= limits.DOTS:
        return dots
    best = math.inf
    marked: list[tuple[int, TrialEntry]] = []
    rest: list[tuple[int, TrialEntry]] = []
    for dot in dots:
        loss, outcome = dot[1]["loss"], dot[1]["outcome"]
        is_best = loss is not None and sign * loss < best
        best = min(best, math.inf if loss is None else sign * loss)
        (marked if is_best or outcome in KEPT else rest).append(dot)
    marked = spread(marked, limits.DOTS // 2)
    return sorted([*marked, *spread(rest, limits.DOTS - len(marked))], key=lambda dot: dot[0])


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


def _asset(name: str) -> str:
    return files("foundry.lab.report").joinpath("assets", name).read_text(encoding="utf-8")
