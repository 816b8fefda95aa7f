"""The report: a ledger of 500 trials becomes one page that can be read, and no text of a plugin can do harm in it."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree.ElementTree import fromstring

import pytest
from tests.pages import in_a_browser, needs_browser, series_of

from foundry.lab.decide.rule import Rule
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Generation, Trial
from foundry.lab.report import words
from foundry.lab.report.arms import arms
from foundry.lab.report.data import read
from foundry.lab.report.intervals import MARGIN, WIDTH, AxisScale, draw
from foundry.lab.report.lineage import lineage
from foundry.lab.report.markup import el
from foundry.lab.report.page import render
from foundry.lab.report.runs import curves
from foundry.lab.report.snapshot import Snapshot
from foundry.lab.report.summary import keep_rates

SIGMA = 0.005  # of the made-up runs
SCRIPT = "<script>document.documentElement.dataset.owned=1</script>"  # in the name of one of the arms


@pytest.fixture(scope="module")
def contents(made_up_project):
    return read(made_up_project)


@pytest.fixture(scope="module")
def page(contents):
    return render(contents)


def test_everything_in_the_ledger_is_in_the_data(made_up_project, contents):
    with Ledger.open(made_up_project) as ledger:
        trials, decisions, generations = ledger.trials(), ledger.decisions(), ledger.generations()
    assert [each["id"] for each in contents["trials"]] == [trial.id for trial in trials]
    results = [trial.result or {} for trial in trials]
    for name in ("tokens", "flops"):
        assert [each[name] for each in contents["trials"]] == [result.get(name) for result in results]
    assert len(trials) > 500
    assert {arm["outcome"] for arm in contents["arms"]} == {
        *("promoted", "kept", "inconclusive", "rejected", "screened_out", "failed", "refused", "open")
    }
    assert len({(arm["generation"], arm["on"], arm["arm"]) for arm in contents["arms"]}) == len(contents["arms"])
    arms = {(arm["sweep"], arm["arm"]): arm for arm in contents["arms"]}
    resting = [decision for decision in decisions if decision.n and (decision.sweep, decision.arm) in arms]
    assert len(resting) > 25
    for decision in resting:
        arm = arms[decision.sweep, decision.arm]
        assert (arm["difference"]["effect"], arm["difference"]["low"]) == (decision.effect, decision.low)
        assert arm["difference"]["confirmed"]
        assert arm["reason"] == decision.reason
    assert [(arm["arm"], arm["on"]) for arm in contents["arms"] if arm["on"]] == [
        *(("dropout 0.05", "bias true"), ("heads 8", "bias true"))
    ]
    assert {arm["reason"] for arm in arms.values() if arm["outcome"] == "failed"} == {
        "not finite at step 41: loss nan, gradient norm inf"
    }
    assert all(arm["changes"] for arm in arms.values())
    json.dumps(contents, allow_nan=False)
    assert [each["number"] for each in contents["generations"]] == [each.number for each in generations]


def test_arms_are_ranked_by_what_is_sure_of_them(contents):
    lows = [arm["difference"]["low"] for arm in contents["arms"] if arm["difference"]]
    sure = [low for low in lows if low is not None]
    assert lows == [*sorted(sure, reverse=True), *[None] * (len(lows) - len(sure))]
    screened = next(arm for arm in contents["arms"] if arm["outcome"] == "screened_out" and arm["difference"])
    difference = screened["difference"]
    assert not difference["confirmed"]
    half = 1.96 * SIGMA * math.sqrt(1 / difference["n"] + 1 / Rule().control_seeds)
    assert difference["high"] - difference["effect"] == pytest.approx(half, rel=1e-3)


@pytest.mark.parametrize(("metric", "better"), [("val_loss", -1), ("letters", 1)])
def test_what_was_only_screened_is_better_where_its_metric_says_so(tmp_path, metric, better):
    """The arm is better by 0.03 on the rung, however its metric counts, and not at the larger scale of a guard."""
    level = 0.6
    runs = [
        *(("baseline", "screen", "1/2", level + noise) for noise in (0.01, -0.01)),
        ("norm layernorm", "screen", "1/2", level + 0.03 * better),
        ("norm layernorm", "guard", "1", level - 0.5 * better),
    ]
    with Ledger.open(tmp_path) as ledger:
        ledger.promote(None, Generation(0, "identity", {}, "manual", "imported", None, None, "hash", 0.0))
        question = {"rule": Rule(metric=metric).to_json()}
        sweep = ledger.start_sweep({"kind": "sweep", "generation": 0, "sigma": 0.01, "question": question})
        for seed, (arm, role, share, score) in enumerate(runs):
            ledger.request(sweep, [(Trial(arm, seed, "code", "data", {}), seed, role, arm, share)])
            higher = ["tokens_per_second", *([metric] if better > 0 else [])]
            metrics = {"val_loss": 9.0, "tokens_per_second": 1.0, metric: score}
            ledger.finish(ledger.claim("w", sweep), {"metrics": metrics, "higher_is_better": higher})
        ledger.finish_sweep(sweep, {"winner": None})
    told = read(tmp_path)
    assert [trial["loss"] for trial in told["trials"]] == [score for *_, score in runs]
    [entry] = told["arms"]
    difference, half = entry["difference"], 1.96 * 0.01 * math.sqrt(1 + 1 / 2)
    assert (entry["outcome"], entry["metric"], entry["runs"], entry["share"]) == ("screened_out", metric, 2, "1/2")
    assert entry["loss"] == pytest.approx(level + 0.03 * better)
    assert difference["effect"] == pytest.approx(0.03)
    assert (difference["low"], difference["high"]) == pytest.approx((0.03 - half, 0.03 + half), rel=1e-3)
    with Ledger.open(tmp_path) as ledger:  # asked again by a sweep that is not finished
        sweep = ledger.start_sweep({"kind": "sweep", "generation": 0, "sigma": 0.01, "question": question, "round": 2})
        ledger.request(sweep, [(Trial("other", 9, "code", "data", {}), 0, "screen", "norm layernorm", "1/2")])
    assert [arm["outcome"] for arm in read(tmp_path)["arms"]] == ["open"]


def test_a_generation_was_undone_by_the_first_rollback_behind_it(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        first = Generation(0, "0", {}, "manual", "imported", None, None, "hash", 0.0)
        ledger.promote(None, first)
        for number, restores in enumerate((None, None, 1, 0), 1):
            kind = "promoted" if restores is None else "rollback"
            ledger.promote(number - 1, replace(first, identity=str(number), kind=kind, restores=restores))
    told = {each["number"]: each["undone_by"] for each in read(tmp_path)["generations"]}
    assert told == {0: None, 1: 4, 2: 3, 3: 4, 4: None}


def test_figures_are_written_with_their_units():
    assert [words.amount(each) for each in (0, 999, 1000, 12_300_000, 4.5e13)] == ["0", "999", "1k", "12.3M", "45T"]
    seconds = (None, 59.94, 60, 95.2, 3599, 3600, 7380)
    told = ("–", "59.9 s", "1 min 0 s", "1 min 35 s", "59 min 59 s", "1 h 0 min", "2 h 3 min")
    assert [words.duration(each) for each in seconds] == [*told]
    assert [words.percent(each) for each in (0.083, 0.5, 1.0)] == ["8.3\u00a0%", "50\u00a0%", "100\u00a0%"]
    assert [words.count(n, "arm") for n in (0, 1, 1234)] == ["0 arms", "1 arm", "1,234 arms"]


def test_texts_in_a_row_all_stand_in_an_element():
    assert el("p", "a", "b", el("i", "c"), "d", None, ["e", el("b", 1), "f"]) == "<p>ab<i>c</i>de<b>1</b>f</p>"


def test_an_interval_that_goes_on_beyond_the_edge_has_an_arrow_there():
    """Its point at the edge, its ends inwards: an interval on the scale ends in two bars."""
    scale = AxisScale(-0.13, 0.2)
    assert (scale.x(-0.13), scale.x(0.2), scale.x(-5.0), scale.x(5.0)) == (
        MARGIN,
        WIDTH - MARGIN,
        MARGIN,
        WIDTH - MARGIN,
    )
    assert list(scale.ticks) == pytest.approx([-0.1, 0, 0.1, 0.2])
    interval = {"effect": 0.05, "low": -5.0, "high": 5.0, "confidence": 0.95, "n": 2, "confirmed": True}
    arrows = re.findall('<path d="([^"]*)"', draw(interval, scale, "won"))
    left, right = ([float(x) for x in re.findall(r"[ML](\S+) ", path)] for path in arrows)
    assert (left[1], right[1]) == (MARGIN, WIDTH - MARGIN)
    assert left[0] == left[2] > left[1]
    assert right[0] == right[2] < right[1]
    inside = draw({**interval, "low": 0.0, "high": 0.1}, scale, "won")
    assert "<path" not in inside


def test_a_rollback_shows_what_it_left_behind_and_takes_its_gain_away(contents):
    lineage = {each["number"]: each for each in contents["generations"]}
    rollbacks = [each for each in lineage.values() if each["kind"] == "rollback"]
    assert rollbacks
    for rollback in rollbacks:
        target = rollback["parent"]
        assert rollback["summary"] == f"back to generation {target}"
        assert all(lineage[n]["undone_by"] is not None for n in range(target + 1, rollback["number"]))
    standing = [each for each in lineage.values() if each["undone_by"] is None and each["gain"]]
    gain = contents["gain"]
    assert gain["promotions"] == len(standing)
    assert gain["estimate"] == pytest.approx(sum(each["gain"]["effect"] for each in standing))
    assert gain["least"] == pytest.approx(sum(each["gain"]["low"] for each in standing))


def test_a_sum_of_gains_that_each_stopped_when_they_looked_good_is_called_an_estimate(contents, page):
    least = f"at least {contents['gain']['least']:+.4f} if every interval holds".replace("-", "−")
    assert f"about {contents['gain']['estimate']:+.4f}" in page
    assert f"{least}; the sum of {contents['gain']['promotions']} gains is too large on average" in page


def test_chance_is_of_as_many_sweeps_as_were_decided(contents, page):
    assert contents["errors"]["sweeps"] > 1
    assert f"in {words.count(contents['errors']['sweeps'], 'decided sweep')}" in page


def test_every_interval_comes_with_its_level(contents, page):
    rule = Rule()
    confirmed, screened = (
        {each["difference"]["confidence"] for each in contents["arms"] if each["difference"]
         and each["difference"]["low"] is not None and each["difference"]["confirmed"] == fresh}
        for fresh in (True, False)
    )  # fmt: skip
    assert confirmed == {1 - 2 * rule.alpha / rule.finalists} == {0.95}
    assert screened == {0.95}
    audit = {"effect": 0.01, "low": 0.005, "high": 0.015, "confidence": 0.9, "n": 4, "confirmed": True}
    assert words.span(audit) == "[+0.0050, +0.0150] (90\u00a0%)"


def test_keep_rates_count_every_arm_and_chance_every_decided_sweep(made_up_project, contents):
    total = contents["keep_rates"][-1]
    assert sum(total["outcomes"].values()) == len(contents["arms"])
    promoted = [each for each in contents["generations"] if each["kind"] == "promoted"]
    assert total["kept"] == len(promoted) + 1  # and one for now, by a search
    assert total["tried"] == len([arm for arm in contents["arms"] if arm["outcome"] not in ("refused", "open")])
    assert all(rate["low"] <= rate["kept"] / rate["tried"] <= rate["high"] for rate in contents["keep_rates"])
    with Ledger.open(made_up_project) as ledger:
        real = {sweep.id for sweep in ledger.sweeps() if sweep.spec["kind"] == "sweep"}
        decided = real & {decision.sweep for decision in ledger.decisions() if decision.n}
    assert contents["errors"]["expected"] == pytest.approx(0.05 * len(decided))
    assert contents["noise"][0]["smallest_decidable"] == pytest.approx(0.0081, rel=0.02)
    assert (contents["errors"]["null_sweeps"], contents["errors"]["null_promotions"]) == (1, 0)


def test_a_page_of_very_many_trials_shows_the_best_and_the_newest_and_says_where_the_rest_is(
    contents, page, monkeypatch
):
    for name, most in (("ROWS", 30), ("DOTS", 100), ("GENERATIONS", 3)):
        monkeypatch.setattr(f"foundry.lab.report.limits.{name}", most)
    thinned = render(contents)
    assert thinned.count("<tr") - thinned.count('<th scope="row"') <= 3 * 30 + 10
    assert f"Here are the newest 30 of {len(contents['trials'])} trials" in thinned
    assert re.search(r"Here are the best \d+ of \d+ arms", thinned)
    for which, terms in (("newest", "what=trial"), ("best", "what=decision")):
        assert f"foundry query {terms} --json" in thinned
        assert f"Here are the {which}" not in page
    series = [series_of(each) for each in (page, thinned)]
    every, dots = ([group["dots"] for group in each["groups"]] for each in series)
    assert sum(map(len, dots)) == 100
    assert all(numbers == sorted(numbers) for numbers in ([dot[0] for dot in group] for group in dots))
    assert all(group for group in dots)
    for few, all_of_them in zip(dots, every, strict=True):
        assert min(dot[2] for dot in all_of_them if dot[2] is not None) in [dot[2] for dot in few]
    newest = [each["number"] for each in contents["generations"]][:-4:-1]
    assert re.findall(r'id="generation-(\d+)"', thinned) == [*map(str, newest)]
    shown = fromstring(lineage(contents["generations"][-3:], "val_loss", "nats")).iter("svg")
    oldest = [each for each in shown if each.get("class") == "graph"][-1]
    assert not [line for line in oldest.iter("line") if line.get("y2") == "100%"]  # to what is not shown


def test_a_page_offers_what_there_is_and_its_bars_are_as_long_as_their_counts(contents, page):
    assert {*re.findall(r'<option value="(\d+)">', page)} == {str(arm["generation"]) for arm in contents["arms"]}
    two = {**contents["arms"][0], "types": ["lr", "width"]}
    changed = render({**contents, "arms": [two, *contents["arms"][1:]]})
    assert 'data-types="lr width"' in changed  # by which its script chooses: a list of words
    rates = contents["keep_rates"]
    bars = [*fromstring(keep_rates(rates)).iter("svg")]
    widths = [sum(float(part.get("width")[:-1]) for part in bar.iter("rect")) for bar in bars]
    tried = [rate["tried"] for rate in rates[:-1]]
    assert widths == pytest.approx([*(100 * n / max(tried) for n in tried), 100], abs=0.1)  # the last is of all


def test_of_very_many_curves_those_of_the_best_and_the_newest_arms_are_drawn(made_up_project, contents, monkeypatch):
    monkeypatch.setattr("foundry.lab.report.limits.CURVES", 20)
    drawn = read(made_up_project)["curves"]
    assert len(drawn) <= 20
    names = [(each["generation"], each["on"], each["arm"]) for each in drawn]
    best = next(arm for arm in contents["arms"] if arm["runs"])
    assert (best["generation"], best["on"], best["arm"]) in names
    assert all(each in contents["curves"] for each in drawn)


class Checked(HTMLParser):
    """Follows a page: every element that was opened is closed, in its order."""

    VOID = ("meta", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.scripts, self.loads = [], [], [], 0, []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        self.loads += [values[key] for key in ("src", "srcset", "data", "action", "poster") if key in values]
        self.scripts += tag == "script"
        assert not [name for name in values if name.startswith("on")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()


def test_the_page_is_whole_needs_no_network_and_escapes_what_it_is_given(page):
    checked = Checked(page)
    assert checked.open == []
    assert len(set(checked.ids)) == len(checked.ids)
    assert checked.loads == []
    assert {link for link in checked.links if link != "#"} <= {f"#{id}" for id in checked.ids}
    assert set(re.findall(r"https?://[^\s\"']*", page)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert not re.search(r"url\((?!#)|@import|<link|<iframe|fetch\(|XMLHttp|WebSocket", page)
    assert checked.scripts == 2
    assert SCRIPT not in page
    assert "&lt;script&gt;document" in page


def test_an_empty_project_gets_a_page_that_helps_and_no_ledger(tmp_path):
    page = render(read(tmp_path))
    assert Checked(page).open == []
    assert "foundry sweep" in page
    assert list(tmp_path.iterdir()) == []


def with_experts(project):
    """The contents where every trial is of a model with experts, of which each tenth step's row says how they are used,
    as in a real run."""

    def points(trial):
        used = {"expert_usage": 0.5, "expert_unevenness": 0.0}  # which is a figure
        return [
            {"step": n, "tokens": 10 * n, "train_loss": 3 - n / 1000} | (used if n % 10 == 0 else {})
            for n in range(1, 601)
        ]

    with Ledger.open(project) as ledger:
        snapshot = Snapshot(ledger)
        return {**read(project), "curves": curves(snapshot, arms(snapshot), points)}


def test_curves_keep_what_tells_how_experts_are_used(made_up_project, contents):
    told = with_experts(made_up_project)
    assert len(told["curves"]) > 10
    for curve in told["curves"]:
        assert len(curve["tokens"]) > 40
        assert set(curve["expert_usage"]) == {0.5}
        assert set(curve["expert_unevenness"]) == {0.0}
    assert all(curve["expert_usage"] == curve["expert_unevenness"] == [] for curve in contents["curves"])


@needs_browser
def test_a_browser_draws_the_charts_and_runs_nothing_of_an_arms_name(page, tmp_path):
    shown = in_a_browser(page, tmp_path)
    assert "data-owned" not in shown
    for plot in ("progress-plot", "curves-plot"):
        assert re.search(rf'id="{plot}"[^>]*><svg', shown), plot
    assert re.search(r"the first 25 of \d+ arms", shown)


@needs_browser
def test_the_use_of_experts_can_be_drawn_where_there_are_any(made_up_project, page, tmp_path):
    look = """
        const choice = document.querySelector("#curves-chart input[value=expert_usage]");
        choice?.click();
        const texts = [...document.querySelectorAll("#curves-plot text")].map(text => text.textContent).join("|");
        document.documentElement.setAttribute("data-shown", `${Boolean(choice)} ${texts}`);
    """
    assert 'data-shown="false ' in in_a_browser(page, tmp_path, look)
    shown = in_a_browser(render(with_experts(made_up_project)), tmp_path, look)
    assert re.search(r'data-shown="true [^"]*expert_usage, share of all', shown)


@needs_browser
def test_tables_sort_and_filter_and_curves_switch_their_axes(page, tmp_path):
    shown = in_a_browser(page, tmp_path, """
        const say = (key, value) => document.documentElement.setAttribute("data-" + key, value);
        addEventListener("error", event => say("error", event.message));
        const long = document.getElementById("leaderboard-0"), heads = [...long.querySelectorAll("th")];
        const rows = () => [...long.querySelectorAll("tbody tr:not([hidden])")];
        const loss = heads.findIndex(head => head.textContent.trim() === "val_loss");
        const click = what => what.querySelector("button").click();
        click(heads[loss]); click(heads[loss]);
        say("losses", rows().map(row => row.cells[loss].dataset.v).join(" "));
        say("sorted", heads[loss].ariaSort);
        const search = long.querySelector("input");
        search.value = "optimizer muon";
        search.dispatchEvent(new Event("input", { bubbles: true }));
        say("found", rows().map(row => row.cells[1].textContent).join("|"));
        for (const value of ["flops", "difference", "whole"])
          document.querySelector(`#curves-chart input[value=${value}]`).click();
        say("axes", [...document.querySelectorAll("#curves-plot text")].map(text => text.textContent).join("|"));
        document.getElementById("theme").click();
        say("arms", document.querySelectorAll("#curves-plot .curve").length);
    """)  # fmt: skip
    said = dict(re.findall(r'data-(\w+)="([^"]*)"', shown[: shown.index("<head")]))
    assert "error" not in said
    losses = [float(value) for value in said["losses"].split()]
    assert losses == sorted(losses)
    assert said["sorted"] == "ascending"
    assert set(said["found"].split("|")) == {"optimizer muon"}
    assert "training FLOPs" in said["axes"]
    assert "better than the baseline by, in validation loss, nats" in said["axes"]
    assert said["theme"] == "light"
    assert int(said["arms"]) >= 1
