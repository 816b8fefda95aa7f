"""What a sweep tells while it runs and when it has ended, word by word. Its runs are random numbers; the procedure that
decides of them, the plan and the result are real."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from tests.golden import assert_golden

from foundry.cli import sweeps
from foundry.cli.commands import ablate, evolve, noise
from foundry.cli.commands import sweep as command
from foundry.lab import Ablation, Evolved, Plan, Question, Rule, Running, SearchSettings, SweepResult
from foundry.lab.ablation import Cell
from foundry.lab.decide.procedure import sweep_procedure
from foundry.lab.decide.request import CONTROL, Contender, Failure, Request
from foundry.lab.decide.simulate import SimulatedWorld, play
from foundry.lab.ledger.records import Generation
from foundry.lab.search.settings import Audited, Spent
from foundry.lab.sweep.arms import Refused
from foundry.lab.sweep.plan import PlannedArm
from foundry.lab.trials.setting import Setting

pytestmark = pytest.mark.quick

GOLDEN = Path(__file__).parent / "golden"
SIGMA = 0.005
GAINS = {"activation relu2": 0.03, "norm layernorm": 0.001, "depth 3": -0.02, "lr 1": 0.0}


def plan(**other) -> Plan:
    entries = [
        PlannedArm(arm, arm, (), (), f"identity of {arm}", {"training": {"max_iters": 300}}, "300 steps")
        for arm in (CONTROL, *GAINS)
    ]
    known = {"sigma": SIGMA, "df": 23} | other
    return Plan(Question((), Rule()), 3, tuple(entries), Setting("cpu", "fp32", 2), "code", "data", **known)


def result(promoted: bool = False, gains=GAINS) -> tuple[SweepResult, list[tuple[Request, object]]]:
    """How a sweep of arms with these gains ends, and what was asked on the way. The runs of `lr 1` diverge."""
    world, asked = SimulatedWorld(SIGMA, gains), []

    def answer(request: Request):
        asked.append((request, Failure("not finite at step 41") if request.arm == "lr 1" else world(request)))
        return asked[-1][1]

    contenders = [Contender(arm, f"identity of {arm}") for arm in gains]
    ended = play(sweep_procedure(Contender(CONTROL, "identity"), contenders, Rule(), SIGMA, 23), answer)
    generation = Generation(4, "identity", {}, "promoted", "", 3, "decision", "hash", 0.0) if promoted else None
    refused = (Refused("depth 0", "model_args.n_layer: must be at least 1", (), True),)
    return SweepResult("5eed", plan(), ended, (), refused, generation), asked


def batch(states: str) -> list[Running]:
    """The first requests of a sweep, in these states: q(ueued), r(unning), F(inished), X: failed."""
    words = {"q": "queued", "r": "running", "F": "finished", "X": "failed"}
    running = []
    for i, (state, (request, outcome)) in enumerate(zip(states, result()[1], strict=False)):
        row = SimpleNamespace(
            id=f"trial{i}", status=words[state], attempts=1 + (state == "X"), ended=float(-i), run=f"runs/{i}",
            result={"seconds": 1.256 + i} if state == "F" else None,
            reason="not finite at step 41" if state == "X" else "",
            trial=SimpleNamespace(experiment={"training": {"max_iters": 300 if i == 2 else None}}),
            metric=lambda name, loss=outcome if state == "F" else None: loss,
        )  # fmt: skip
        running.append(Running(request, row))
    return running


def tell(reporter) -> None:
    reporter.planned("5eed", plan())
    reporter.note("the noise is known")
    reporter.batch(batch("FrqX"))
    reporter.batch(batch("FFrX"))
    reporter.tick()


@pytest.fixture
def told(capsys):
    """Holds what was printed since against a file."""

    def assert_told(name: str) -> None:
        shown = capsys.readouterr()
        text = f"{shown.out}--- stderr\n{shown.err}"
        assert_golden(GOLDEN / f"{name}.txt", re.sub(r"(\.\d{6})\d+", r"\1", text))  # the rest is the processor's

    return assert_told


def test_trials_are_told_as_lines_or_as_objects(told):
    tell(sweeps.Lines())
    told("sweep_lines")
    sweeps.render.use_json(True)
    try:
        tell(sweeps.JsonLines())
    finally:
        sweeps.render.use_json(False)
    told("sweep_objects")


def test_trials_are_drawn_as_a_table(told, tmp_path, monkeypatch):
    """While one of them runs and one has failed."""
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    monkeypatch.setattr(sweeps.Run, "last_metrics", lambda run: {"step": 120} if run.path.name == "2" else None)
    table = sweeps.LiveTable(tmp_path)
    table.title, table.began, table.trials = "sweep 5eed", 958.0, batch("FFrXr")
    Console(width=120, force_terminal=False).print(table._table())
    told("sweep_table")


def test_the_end_is_told_in_a_table_and_in_words(told):
    for each in (result()[0], result(promoted=True)[0], result(gains={"depth 3": -0.02})[0]):
        sweeps.draw(each)
        sweeps.render.line()
    told("sweep_end")


def test_null_sweeps_are_counted_one_by_one(told):
    ends = [SimpleNamespace(winner=winner, runs=10) for winner in (None, "null 2", None, None)]
    lab = SimpleNamespace(null_sweeps=lambda question, **_: iter(ends), reporter=sweeps.Lines())
    command._null(lab, Question((), Rule()), arms=3, rounds=4)
    told("null_sweeps")


def test_a_search_tells_its_steps_and_its_end(told):
    effect = {"arm": "norm layernorm", "effect": -0.001}
    best = {"arm": "depth 3", "effect": 0.0123}
    tell = evolve._teller(sweeps.Lines().note)
    for step, (kept, proposals) in enumerate(((None, [effect, best]), ("depth 3", [best]), (None, [])), 1):
        facts = {"event": "round", "step": step, "proposals": proposals, "kept": kept, "effect": kept and 0.0123}
        tell(facts)
    for generation in (None, 4):
        audited = {"event": "audit", "step": 4, "stack": "depth 3", "generation": generation, "reason": "it is so"}
        tell(audited)
    audits = (
        Audited((("depth", "3"), ("lr", "1")), "promote", "better", 0.03, 0.01, 0.05, 0.95, 4, 4),
        Audited((("bias", "true"),), "promote", "better", 0.02, 0.005, 0.035, 0.95, 6, 5),
        Audited((("norm", "none"),), "reject", "no gain", None, None, None, None, 0, None),
    )
    rates = {"lr": (1, 3), "depth": (2, 5), "bias": (1, 7)}
    about = ("5ea4c4", SearchSettings(), "the trials are used up", 5, 2.1234, 9, 15, 4, rates)
    for evolved in (
        Evolved(*about, audits, (("qk_norm", "true"),), Spent(120)),
        replace(Evolved(*about, (), (), Spent(8)), loss=None, keep_rates={}),
    ):
        evolve._draw(evolved)
        figures = evolved.to_json()
        for key in ("gain", "least_gain", "keep_rate", "keep_rates", "promotions", "expected_false_promotions"):
            sweeps.render.line(f"{key}: {figures[key]}")
    told("search")


def test_a_search_that_would_go_on_tells_how(told, monkeypatch):
    monkeypatch.setattr("sys.argv", ["foundry", "evolve", "--dry-run"])
    planned = {
        "search": "5ea4c4", "steps": 3, "next": "round", "why": "", "trials": 9, "flops": 1.5e12, "noise_trials": 8,
        "arms": [{"arm": "depth 3", "changes": ["n_layer: 4 -> 3", "lr: 1 -> 2"], "budget": "300 steps"}],
        "refused": [{"arm": "depth 0", "reason": "must be at least 1"}], "space": {"depth": ["3", "5"], "lr": ["2"]},
    }  # fmt: skip
    for each in (planned, planned | {"flops": None, "noise_trials": 0}, planned | {"next": None, "why": "it is over"}):
        monkeypatch.setattr("foundry.lab.preview_search", lambda *_, each=each: each, raising=False)
        evolve._preview(None, SearchSettings(), None)
    told("search_preview")


def test_noise_and_ablations_tell_what_was_measured(told):
    power = [{"gain": 0.01, "power": 0.876, "pairs": 5.43}, {"gain": 0.02, "power": 0.999, "pairs": 3.0}]
    measured = {"metric": "val_loss", "mean": 2.12345, "sigma": 0.00512, "df": 7, "delta": 0.0102}
    noise._draw(measured | {"smallest_decidable": 0.00987, "power": power, "failures": ["not finite at step 3"]})
    cells = (
        Cell(replace(plan().entries[0], flops=1.2345e9), (2.0, 2.2), ()),
        Cell(plan().entries[1], (1.9, 2.05), ()),
        Cell(plan().entries[2], (), ("not finite at step 3", "out of memory")),
    )
    for higher in (False, True):
        ablate._draw(Ablation("5eed", "val_loss", higher, cells, result()[0].refused, 0.0123 if higher else None))
    told("noise_and_ablations")


def test_a_dry_run_tells_its_plan(told, monkeypatch):
    monkeypatch.setattr("sys.argv", ["foundry", "sweep", "depth", "3", "0", "--dry-run"])
    planned = {
        "arms": [{"arm": CONTROL, "changes": [], "flops": 1.234e9, "budget": "300 steps"},
                 {"arm": "depth 3", "changes": ["n_layer: 4 -> 3", "lr: 1 -> 2"], "flops": None, "budget": "60 s"}],
        "refused": [{"arm": "depth 0", "reason": "must be at least 1"}],
        "remarks": ["depth 3: it is smaller"], "summary": "at most 40 trials",
    }  # fmt: skip
    command._dry_run(SimpleNamespace(dry_run=lambda question: planned), Question(()))
    told("sweep_dry_run")
