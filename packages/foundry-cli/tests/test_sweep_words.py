"""What a sweep tells while it runs and when it has ended, word by word. Its runs are random numbers; the procedure that
decides of them, the plan and the result are real."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from tests.golden import assert_golden

from foundry.cli import sweeps
from foundry.cli.commands import sweep as command
from foundry.lab import Plan, Question, Rule, Running, SweepResult
from foundry.lab.decide.procedure import sweep_procedure
from foundry.lab.decide.request import CONTROL, Contender, Failure, Request
from foundry.lab.decide.simulate import SimulatedWorld, play
from foundry.lab.ledger.records import Generation
from foundry.lab.sweep.arms import Refused
from foundry.lab.sweep.plan import PlannedArm
from foundry.lab.trials.setting import Setting

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
    Console(width=120).print(table._table())
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
