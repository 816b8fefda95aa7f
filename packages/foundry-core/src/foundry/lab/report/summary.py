"""The figures at the top of the page, the keep rates, and how much of it may be chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from foundry.lab.report import words
from foundry.lab.report.contents import (
    Contents,
    Errors,
    Gain,
    GenerationEntry,
    Group,
    KeepRate,
    NoiseEntry,
    Outcome,
)
from foundry.lab.report.markup import Child, Markup, el

STACK: tuple[Outcome, ...] = ("promoted", "won", "kept", "inconclusive", "rejected", "screened_out", "failed")
"""The parts of a keep rate's bar, kept ones first."""


def tiles(contents: Contents) -> Markup:
    """What one wants to know first, at the budget and in the metric of the first group."""
    current = next((each for each in contents["generations"] if each["current"]), None)
    unit = contents["unit"]
    statuses = Counter(trial["status"] for trial in contents["trials"])
    every = contents["keep_rates"][-1] if contents["keep_rates"] else None
    group = next(iter(contents["groups"]), None)
    gain, errors = contents["gain"], contents["errors"]
    rest = ", ".join(f"{n:,} {status}" for status, n in statuses.most_common() if status != "finished")
    return el(
        "dl",
        _tile(
            "baseline",
            f"generation {current['number']}" if current else "none yet",
            _reached(current, group),
        ),
        _tile(
            "gain so far",
            f"about {words.signed(gain['estimate'])} {unit}" if gain else words.NOTHING,
            _together(gain) if gain else "no promotion stands",
        ),
        _tile(
            "kept",
            f"{every['kept']} of {every['tried']:,}" if every else words.NOTHING,
            f"{words.percent(every['kept'] / every['tried'])} of the arms that were trained"
            if every and every["tried"]
            else "no arm is judged yet",
        ),
        _tile("trials", f"{len(contents['trials']):,}", f"{statuses['finished']:,} finished" + (rest and f", {rest}")),
        _tile("smallest decidable gain", *_decidable(contents, group)),
        _tile(
            "expected false promotions",
            f"≤ {errors['expected']:.2g}" if errors["sweeps"] else "0",
            f"in {words.count(errors['sweeps'], 'decided sweep')}" if errors["sweeps"] else "nothing is decided yet",
        ),
        class_="tiles",
    )


def _reached(current: GenerationEntry | None, group: Group | None) -> str:
    """The current baseline's own result in a group, and what made it the baseline."""
    if current is None:
        return ""
    own = [each for each in group["baselines"] if each["generation"] == current["number"]] if group else []
    reached = (f"{group['metric']} {words.loss(each['value'])} at {group['budget']}: " for each in own if group)
    return "".join(reached) + current["summary"]


def _decidable(contents: Contents, group: Group | None) -> tuple[str, str]:
    """The smallest gain that sweeps find, and where that holds."""
    if group and group["smallest_decidable"] is not None:
        return (
            f"{group['smallest_decidable']:.4f} {group['unit']}",
            f"found in 80\u00a0% of sweeps at {group['budget']}",
        )
    noise = next((each for each in contents["noise"] if each["metric"] == contents["metric"]), None)
    if noise is None:
        return words.NOTHING, "not measured: foundry noise"
    smallest = noise["smallest_decidable"]
    figure = words.NOTHING if smallest is None else f"{smallest:.4f} {contents['unit']}"
    return figure, f"found in 80\u00a0% of sweeps; the noise between seeds is {noise['sigma']:.4f}"


def keep_rates(rates: Sequence[KeepRate]) -> Markup:
    """Per mutation type: how many arms were kept, with the interval that so few can give."""
    widest = max((rate["tried"] for rate in rates[:-1]), default=0)
    rows = (
        el(
            "tr",
            el("th", rate["type"], scope="row"),
            el("td", f"{rate['kept']} of {rate['tried']}", class_="number", data_v=str(rate["kept"])),
            el("td", _rate(rate), class_="number"),
            el("td", _bar(rate, rate["tried"] if rate is rates[-1] else widest)),
            el("td", _parts(rate), class_="muted"),
            class_="total" if rate is rates[-1] else None,
        )
        for rate in rates
    )
    head = (("mutation type", None), ("kept", "number"), ("rate", "number"), ("arms by outcome", None), ("", None))
    return el(
        "div",
        el(
            "table",
            el("caption", "Keep rate by mutation type", class_="hidden"),
            el("thead", el("tr", (el("th", title, scope="col", class_=kind) for title, kind in head))),
            el("tbody", rows),
            class_="rates",
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label="Keep rate by mutation type",
    )


def chance(noise: Sequence[NoiseEntry], errors: Errors, units: dict[str, str]) -> Iterable[Child]:
    """What the decisions rest on: the measured noise, and the rate of false promotions that was agreed to."""
    yield el("p", _agreed(errors))
    if not noise:
        yield el("p", "The noise between seeds was not measured yet: ", el("code", "foundry noise"), " does it.")
        return
    heads = ("budget", "standard deviation", "runs", "degrees of freedom", "smallest decidable gain")
    rows = (
        el(
            "tr",
            el("th", each["metric"], scope="row", title=each["context"]),
            (
                el("td", figure, class_="number", data_label=head)
                for head, figure in zip(heads, _figures(each, units.get(each["metric"], "")), strict=True)
            ),
        )
        for each in noise
    )
    yield el(
        "div",
        el(
            "table",
            el("caption", "Noise", class_="hidden"),
            el(
                "thead",
                el("tr", el("th", "metric", scope="col"), (el("th", h, scope="col", class_="number") for h in heads)),
            ),
            el("tbody", rows),
            class_="rates",
        ),
        class_="scroll",
    )


def _figures(noise: NoiseEntry, unit: str) -> tuple[str, ...]:
    """Of a measurement of the noise, in the order of its table."""
    smallest = noise["smallest_decidable"]
    return (
        noise["budget"] or words.NOTHING,
        f"{noise['sigma']:.5f} {unit}".strip(),
        f"{noise['runs']}",
        f"{noise['df']}",
        words.NOTHING if smallest is None else f"{smallest:.4f}",
    )


def _together(gain: Gain) -> str:
    """What one may believe of a sum of effects, each of which was looked at until it was large enough."""
    least = "" if gain["least"] is None else f"at least {words.signed(gain['least'])} if every interval holds; "
    of = f"the sum of {gain['promotions']} gains" if gain["promotions"] > 1 else "it"
    why = "is too large on average, because a test stops when it looks good"
    at = f"; measured at {' and '.join(gain['budgets'])}" if len(gain["budgets"]) > 1 else ""
    others = f"; {words.count(gain['others'], 'gain')} in other metrics not counted" if gain["others"] else ""
    return f"{least}{of} {why}; {words.count(gain['n'], 'pair')} of runs{at}{others}"


def _tile(title: str, figure: str, note: str) -> Markup:
    return el("div", el("dt", title), el("dd", figure.strip(), class_="figure"), el("dd", note, class_="note"))


def _rate(rate: KeepRate) -> tuple[Child, ...]:
    if not rate["tried"]:
        return (words.NOTHING,)
    interval = f"{words.percent(rate['low'])} to {words.percent(rate['high'])}"
    return el("strong", words.percent(rate["kept"] / rate["tried"])), el("span", interval, class_="muted block")


def _bar(rate: KeepRate, full: int) -> Markup:
    """The outcomes as parts of a bar, which is whole where `full` arms were tried."""
    parts, left = [], 0.0
    for outcome in STACK:
        share = 100 * rate["outcomes"].get(outcome, 0) / max(full, 1)
        if share:
            parts.append(el("rect", x=f"{left:.2f}%", width=f"{share:.2f}%", y=0.0, height="100%", class_=outcome))
        left += share
    return el("svg", parts, class_="bar", aria_hidden="true")


def _parts(rate: KeepRate) -> str:
    every: tuple[Outcome, ...] = (*STACK, "described", "refused", "open")
    return ", ".join(f"{n} {words.OUTCOMES[each][1]}" for each in every if (n := rate["outcomes"].get(each)))


def _agreed(errors: Errors) -> str:
    if not errors["sweeps"]:
        return "No sweep has been decided yet, so nothing can have been promoted by chance."
    rate = f", each at {words.percent(errors['alpha'])}" if errors["alpha"] is not None else ""
    said = (
        f"{words.count(errors['sweeps'], 'sweep')} ended with a decision{rate}: if not one of their arms were any "
        f"better than its baseline, at most {errors['expected']:.2g} false promotions would be expected by now."
    )
    if errors["null_sweeps"]:
        said += (
            f" In {words.count(errors['null_sweeps'], 'null sweep')}, where the arms were the baseline itself, "
            f"{words.count(errors['null_promotions'], 'promotion')} happened."
        )
    return said
