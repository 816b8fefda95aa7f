"""The report shows what may be compared, and only that: runs of one budget, by one metric."""

import json
import re
from pathlib import Path

import pytest
from tests.pages import in_a_browser, needs_browser, series_of

from foundry.lab.decide.rule import Rule
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Decision, Generation, Trial
from foundry.lab.report.data import read
from foundry.lab.report.page import render


class Lab:
    """Sweeps of a baseline that trains 100 steps itself, of 128 tokens each."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        own = {"training": {"max_iters": 100}}
        self.first = Generation(0, "0", own, "manual", "imported", None, None, "hash", 0.0)
        ledger.promote(None, self.first)

    def sweep(
        self, budget, arms, *, metric="val_loss", sigma: float | None = 0.01, generation=0, validated=(), sets=()
    ) -> str:
        """Two runs of every arm: `arms` has their results.

        Args:
            validated: steps at which a run's curve has a validation loss; the training loss it has at each.
        """
        higher = metric == "letters"
        question = {"rule": Rule(metric=metric).to_json(), "budget": budget, "sets": [*sets]}
        about = {"unit": "share" if higher else "nats", "higher_is_better": higher}
        spec = {"kind": "sweep", "generation": generation, "sigma": sigma, "df": 7, "question": question, **about,
                "number": len(self.ledger.sweeps())}  # fmt: skip
        sweep, ledger = self.ledger.start_sweep(spec), self.ledger
        for arm, value in arms.items():
            for seed in (1, 2):
                steps = {"max_iters": 1, "tokens": 1 / 128}[budget[0]] * budget[1] if budget else 100
                wanted = Trial(f"{generation} {arm} {steps} {metric} {sets}", seed, "code", "data", {})
                ledger.request(sweep, [(wanted, seed, "confirm", arm, "1")])
                metrics = {"val_loss": 4.5, metric: value}
                curve = [{"step": n, "tokens": 128 * n, "train_loss": 5 - n / 100}
                         | ({"val_loss": 6 - n / 100} if n in validated else {}) for n in range(1, 11)]  # fmt: skip
                result = {"step": steps, "tokens": 128 * steps, "metrics": metrics, "higher_is_better": ["letters"]}
                if attempt := ledger.claim("worker", sweep):  # else the ledger knows its result already
                    ledger.finish(attempt, result, curve)
        ledger.finish_sweep(sweep, {"winner": None})
        return sweep

    def promote(self, sweep: str, arm: str, effect: float, generation: int = 0) -> None:
        row = self.ledger.sweep(sweep)
        judged = (row.metric, "promote", "better", effect, effect / 2, 2 * effect, 1.0, 2, {}, 0.01, 0.0, 0.95)
        decision = Decision(f"{sweep} {arm}", sweep, generation, arm, arm, *judged)
        self.ledger.decide(decision)
        own = {"training": {"max_iters": 100}}
        about = (0, arm, own, "promoted", arm, None, decision.id, "hash", 0.0)
        self.ledger.promote(generation, Generation(*about, loss=3.9))


@pytest.fixture
def lab(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        yield Lab(ledger)


def told(lab: Lab) -> tuple[dict, str]:
    """The data as JSON has it, and the page."""
    contents = read(Path(lab.ledger.project))
    return json.loads(json.dumps(contents, allow_nan=False)), render(contents)


SHORT = ["max_iters", 40]


def test_what_stands_on_one_axis_is_of_one_budget_and_one_metric(lab):
    lab.sweep(SHORT, {"baseline": 4.0, "relu2": 3.9, "gelu": 4.1})
    lab.sweep(None, {"baseline": 3.0, "relu2": 2.8})
    lab.sweep(SHORT, {"baseline": 0.5, "relu2": 0.7}, metric="letters")
    lab.sweep(["tokens", 1280], {"relu2": 4.4})  # whose control is not there yet
    data, page = told(lab)
    groups = {(each["budget"], each["metric"]): each for each in data["groups"]}
    assert {key: (each["unit"], each["higher_is_better"], each["trials"]) for key, each in groups.items()} == {
        ("40 steps", "val_loss"): ("nats", False, 6 + 4),  # the trials that letters rank have a loss, too
        ("100 steps", "val_loss"): ("nats", False, 4),
        ("40 steps", "letters"): ("share", True, 4),
        ("1,280 tokens", "val_loss"): ("nats", False, 2),
    }
    own = {key: [each["value"] for each in group["baselines"]] for key, group in groups.items()}
    assert own["100 steps", "val_loss"] == [3.0]
    assert own["40 steps", "letters"] == [0.5]
    assert own["40 steps", "val_loss"] == [pytest.approx((4.0 + 4.5) / 2)]
    assert own["1,280 tokens", "val_loss"] == []

    drawn = {(each["budget"], each["metric"]): each for each in series_of(page)["groups"]}
    assert {dot[2] for dot in drawn["100 steps", "val_loss"]["dots"]} == {3.0, 2.8}
    assert {dot[2] for dot in drawn["40 steps", "letters"]["dots"]} == {0.5, 0.7}
    assert drawn["40 steps", "letters"]["baselines"] == [[0, 0.5]]
    parts = re.findall(r'<div data-group="(\d)"( hidden="")?>(.*?)(?=<div data-group|</section>)', page, re.S)
    assert {number for number, hidden, _ in parts if not hidden} == {"0"}  # what a page without its script shows
    assert data["groups"][0]["budget"] == "40 steps"
    [letters] = [text for _, _, text in parts if "at 40 steps by letters" in text]
    assert "better by, share" in letters
    assert re.findall(r'class="arm">([^<]*)<', letters) == ["relu2"]
    assert sum("Higher is better" in text for _, _, text in parts) == 1
    [without] = [text for _, _, text in parts if "There is no line" in text]
    assert "at 1,280 tokens in val_loss" in without


def test_runs_with_a_setting_that_only_their_sweep_holds_are_a_group_of_their_own(lab):
    lab.sweep(SHORT, {"baseline": 4.0, "relu2": 3.9})
    lab.sweep(SHORT, {"baseline": 5.0, "relu2": 4.9}, sets=("model_args.n_layer=1",))
    lab.sweep(None, {"baseline": 4.0}, sets=("training.max_iters=40",))  # which is a budget in other words
    own = {each["budget"]: [line["value"] for line in each["baselines"]] for each in told(lab)[0]["groups"]}
    assert own == {"40 steps": [4.0], "40 steps with model_args.n_layer=1": [5.0]}


def test_a_rollback_keeps_the_line_of_what_it_brings_back(lab):
    first = lab.sweep(SHORT, {"baseline": 4.0, "relu2": 3.9})
    lab.promote(first, "relu2", 0.1)
    lab.ledger.promote(1, Generation(0, "0", {}, "rollback", "back", None, None, "hash", 0.0, restores=0))
    lines = {each["generation"]: each["value"] for each in told(lab)[0]["groups"][0]["baselines"]}
    assert lines == {0: 4.0, 1: 3.9, 2: 4.0}


def test_curves_of_what_was_not_validated_show_the_training_loss_and_the_axis_says_so(lab):
    lab.sweep(SHORT, {"baseline": 4.0, "relu2": 3.9}, validated=(10,))  # at its end alone, which makes no line
    lab.sweep(None, {"baseline": 3.0, "relu2": 2.8}, validated=(5, 10))
    data, page = told(lab)
    assert {each["budget"]: each["curves"] for each in data["groups"]} == {
        "40 steps": "train_loss", "100 steps": "val_loss",
    }  # fmt: skip
    assert {each["budget"]: each["curves"] for each in series_of(page)["groups"]}["40 steps"] == "train_loss"


@needs_browser
def test_a_choice_changes_the_axes_the_leaderboard_and_the_curves(lab, tmp_path):
    lab.sweep(SHORT, {"baseline": 4.0, "relu2": 3.9, "gelu": 3.9}, validated=(10,))
    lab.sweep(None, {"baseline": 3.0, "relu2": 2.8}, validated=(5, 10))
    lab.sweep(SHORT, {"baseline": 0.5, "relu2": 0.7}, metric="letters")
    look = """
        const said = [], axis = place => document.querySelector(`#${place} .y-title`).textContent;
        const look = () => said.push([axis("progress-plot"), axis("curves-plot"),
          document.querySelectorAll("#curves-plot .curve").length,
          document.querySelectorAll("#progress-plot .stairs").length,
          [...document.querySelectorAll("table caption")].filter(each => each.checkVisibility())[0].textContent]);
        addEventListener("error", event => said.push(event.message));
        const choose = (name, value) => {
          const select = document.getElementById(`group-${name}`);
          select.value = value;
          select.dispatchEvent(new Event("change", { bubbles: true }));
        };
        look();
        choose("metric", "letters"); look();
        choose("budget", "100 steps"); look();
        document.documentElement.setAttribute("data-said", JSON.stringify(said));
    """
    shown = re.search(r'data-said="([^"]*)"', in_a_browser(told(lab)[1], tmp_path, look))[1]
    fallback = "training loss, nats (no run here was validated on its way)"
    board = "Arms by the lower end of their interval, at"
    assert json.loads(shown.replace("&quot;", '"')) == [
        ["val_loss, nats (lower is better)", fallback, 3, 1, f"{board} 40 steps by val_loss"],
        ["letters, share (higher is better)", fallback, 3, 1, f"{board} 40 steps by letters"],
        ["val_loss, nats (lower is better)", "validation loss, nats", 2, 1, f"{board} 100 steps by val_loss"],
    ]


def test_arms_without_an_interval_stand_behind_those_with_one(lab):
    lab.sweep(SHORT, {"baseline": 4.0, "far better": 2.0, "worse": 4.2}, sigma=None)
    lab.sweep(SHORT, {"baseline": 4.0, "better": 3.9, "nearly alike": 4.02})
    data, page = told(lab)
    assert [arm["arm"] for arm in data["arms"]] == ["better", "nearly alike", "far better", "worse"]
    board = page[page.index('id="leaderboard-0"') : page.index("</table>")]
    assert re.findall(r'class="arm">([^<]*)<', board) == ["better", "nearly alike", "far better", "worse"]
    ranks = re.findall(r'<tr data-outcome.*?<td class="number" data-v="(\w+)">(.)<', board)
    assert ranks == [("1", "1"), ("2", "2"), ("none", "–"), ("none", "–")]
    assert board.count("no interval") == 2
    assert "Arms without an interval stand behind those with one" in page


@pytest.mark.parametrize(
    ("budget", "is_below", "steps"),
    [(SHORT, True, 40), (None, False, 100), (["max_iters", 100], False, 100), (["tokens", 6400], True, 50),
     (["tokens", 12800], False, 100)],
)  # fmt: skip
def test_a_promotion_says_at_which_budget_it_was_measured_and_is_marked_where_that_is_short(
    lab, budget, is_below, steps
):
    lab.promote(lab.sweep(budget, {"baseline": 4.0, "relu2": 3.9}), "relu2", 0.1)
    data, page = told(lab)
    first, promoted = data["generations"]
    assert (first["below_own_budget"], promoted["below_own_budget"]) == (None, is_below)
    assert promoted["own_budget"] == "100 steps"
    [arm] = data["arms"]
    for effect in (promoted["gain"], arm["difference"]):
        assert (effect["steps"], effect["tokens"], effect["metric"]) == (steps, 128 * steps, "val_loss")
        assert effect["budget"] == arm["budget"] == data["groups"][0]["budget"]
    row = page[page.index('id="generation-1"') : page.index('id="generation-0"')]
    assert f"at {steps} steps, {128 * steps / 1000:.3g}k tokens" in row
    assert ("short evidence" in row) == is_below
    assert (f"measured at {effect['budget']}, its own budget is 100 steps" in row) == is_below
    board = page[page.index('id="leaderboard-0"') : page.index("</table>")]
    assert f">{steps} steps<" in board


def test_gains_in_another_metric_are_not_added(lab):
    lab.promote(lab.sweep(SHORT, {"baseline": 4.0, "relu2": 3.9}), "relu2", 0.1)
    lab.promote(lab.sweep(None, {"baseline": 3.0, "muon": 2.8}, generation=1), "muon", 0.2, 1)
    lab.promote(lab.sweep(None, {"baseline": 0.5, "rope": 0.7}, metric="letters", generation=2), "rope", 0.4, 2)
    data, page = told(lab)
    gain = data["gain"]
    assert (gain["metric"], gain["promotions"], gain["others"]) == ("val_loss", 2, 1)
    assert gain["estimate"] == pytest.approx(0.3)
    assert gain["budgets"] == ["40 steps", "100 steps"]
    assert "measured at 40 steps and 100 steps; 1 gain in other metrics not counted" in page
    row = page[page.index('id="generation-3"') : page.index('id="generation-2"')]
    assert "letters" in row
    assert '<circle cx="' not in row[row.index('class="interval') :]  # it is told, and not drawn on the axis in nats


def test_an_arm_that_was_tried_at_two_budgets_is_counted_once(lab):
    lab.promote(lab.sweep(SHORT, {"baseline": 4.0, "relu2": 3.9}), "relu2", 0.1)
    lab.sweep(None, {"baseline": 3.0, "relu2": 3.1})
    data, _ = told(lab)
    assert [(arm["budget"], arm["outcome"]) for arm in data["arms"]] == [
        ("40 steps", "promoted"), ("100 steps", "screened_out"),
    ]  # fmt: skip
    assert data["keep_rates"][-1]["outcomes"] == {"promoted": 1}
    assert data["generations"][0]["tried"] == 1
