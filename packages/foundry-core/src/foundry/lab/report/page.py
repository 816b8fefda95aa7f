"""The report as one HTML page that needs nothing else: style, script and data are in it, and it asks no network.

What comes from plugins (names of arms, reasons, differences) reaches the page as text nodes, attribute values or JSON,
never as markup; a content security policy lets nothing run but the page's own script, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from foundry.lab.report import choice, limits, summary, tables, words
from foundry.lab.report.contents import ArmEntry, Contents, Group, GroupKey
from foundry.lab.report.lineage import lineage
from foundry.lab.report.markup import Child, Markup, el, escaped
from foundry.lab.report.series import series

SCRIPTS = ("theme.js", "tables.js", "plot.js", "groups.js", "progress.js", "curves.js")
SECTIONS = (
    ("progress", "Progress"),
    ("best", "Leaderboard"),
    ("curves", "Loss curves"),
    ("lineage", "Lineage"),
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
        series=series(contents, contents["groups"][: limits.GROUPS]),
        script=script,
    )


def _main(contents: Contents, is_empty: bool) -> Markup:
    groups = contents["groups"][: limits.GROUPS]
    dots = limits.shared([group["trials"] for group in groups], limits.DOTS)
    current = next((each for each in contents["generations"] if each["current"]), None)
    head = el(
        "header",
        el("h1", contents["project"]),
        el(
            "p",
            f"{words.count(len(contents['trials']), 'trial')} and "
            f"{words.count(len(contents['generations']), 'generation')} by ",
            words.moment(contents["created"]),
            " UTC",
        ),
        class_="title",
    )
    if is_empty:
        return el("main", head, _empty())
    return el(
        "main",
        head,
        summary.tiles(contents),
        choice.control(groups, len(contents["groups"])),
        _section(
            "progress",
            "",
            choice.each(groups, lambda group, n: el("p", _of_progress(group, contents, dots[n]), class_="lead")),
            _chart("progress-chart", "Every trial, in order, and the baseline's own result"),
        ),
        _section(
            "best",
            "Ranked by the lower end of the interval: by what is sure, to the level beside it. Arms without an "
            "interval stand behind those with one. A full dot comes from fresh seeds; a hollow one is from the "
            "screening, where the best of many looks better than it is.",
            _leaderboards(contents["arms"], groups),
        ),
        _section(
            "curves",
            "The mean over the seeds of each arm, of the best and the newest where they are many. Where a group has "
            "many, its band holds the middle 80 % of them and the dashed line is their median; point at a curve, or "
            "use the arrow keys, to see whose it is."
            + EXPERTS
            * any(curve["expert_usage"] for curve in contents["curves"]),
            _chart("curves-chart", "The loss of every arm while it trains"),
        ),
        _section(
            "lineage",
            "Each baseline, newest first, and the gain that made it one: the median difference on fresh seeds with an "
            "interval that stays valid whenever the test stopped, and how long the runs were. What a rollback left "
            "behind stands beside the line.",
            lineage(contents["generations"][-limits.GENERATIONS :], contents["metric"], contents["unit"])
            if current
            else el("p", "No baseline is recorded yet: the first sweep imports experiments/baseline.yaml."),
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
            *summary.chance(
                contents["noise"], contents["errors"], {each["metric"]: each["unit"] for each in contents["groups"]}
            ),
        ),
        _section(
            "runs", "Training runs, also those that failed.", tables.trials(contents["trials"], contents["metric"])
        ),
    )


def _of_progress(group: Group, contents: Contents, dots: int) -> str:
    """What is to be known of a group's chart.

    Args:
        dots: that are drawn, at most.
    """
    told = [
        "Every run is a dot, the line is the baseline of its time. A dot that is better than the line is only a "
        "candidate until fresh seeds confirm it.",
        "Higher is better." if group["higher_is_better"] else "Lower is better.",
    ]
    if not group["baselines"]:
        told.append(f"There is no line: no baseline has a result of its own at {group['budget']} in {group['metric']}.")
    elif len(group["baselines"]) < len(contents["generations"]):
        told.append("The line is missing where the baseline of the time has no result of its own at this budget.")
    if group["trials"] > dots:
        told.append("Not all are drawn: what was kept, the best of their time, and some of the rest.")
    return " ".join(told)


def _leaderboards(arms: Sequence[ArmEntry], groups: Sequence[Group]) -> list[Markup]:
    found: dict[GroupKey, list[ArmEntry]] = defaultdict(list)
    for arm in arms:
        if arm["difference"] is not None:
            found[arm["difference"]["budget"], arm["metric"]].append(arm)
    of_group = [found[group["budget"], group["metric"]] for group in groups]
    most = limits.shared([len(its) for its in of_group], limits.ROWS)
    return choice.each(groups, lambda group, number: tables.leaderboard(of_group[number], group, number, most[number]))


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
        ("foundry noise", "measures how much seeds differ, and so which gains can be found."),
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


def _asset(name: str) -> str:
    return files("foundry.lab.report").joinpath("assets", name).read_text(encoding="utf-8")
