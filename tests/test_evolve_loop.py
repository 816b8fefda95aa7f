"""`foundry evolve` with a ledger and a laboratory: what it tries, keeps and promotes, and that it can be killed at any
instant. Most of it trains with a fake whose truth is known; one search trains for real, models of 3,000 parameters."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.documents import stream
from tests.doses import not_in_small_doses
from tests.project import TINY, lines_of_words, working_in, write_project

from foundry.cli.__main__ import main
from foundry.cli.commands import evolve as evolve_command
from foundry.core import load_experiment
from foundry.core.config.budget import Budget
from foundry.core.contracts import ExitCode, PluginError, UsageError
from foundry.core.system.signals import StopRequest
from foundry.lab.baseline import current_baseline
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger import Ledger
from foundry.lab.search import ideas
from foundry.lab.search.evolve import evolve, preview
from foundry.lab.search.policy import Policy
from foundry.lab.search.settings import Evolved, Limits, SearchSettings
from foundry.lab.sweep.lab import Lab
from foundry.lab.sweep.reporter import Silent

BASELINE = f"""{TINY}
training: {{max_iters: 24, batch_size: 4, learning_rate: 1e-3, eval_interval: 0, eval_tokens: 512, threads: 1}}
"""
FILES = {"experiments/baseline.yaml": BASELINE, "corpus.txt": lines_of_words(300)}
SIGMA = 0.005
GAINS = {"relu2": 0.03, "gelu": -0.02, "learned": 0.02, "none": -0.05, "layernorm": -0.01}
"""What is true of the variants below; everything else changes nothing."""
VALUES = {
    "activation": ("relu2", "gelu"),
    "position": ("learned", "none"),
    "norm": ("layernorm",),
    "grad_clip": ("0.5", "2", "0"),
    "warmup": ("5", "10"),
}
POLICY = Policy(proposals=3, first_stack=2, largest_stack=4)


class Killed(BaseException):
    """As SIGKILL: nothing that comes after runs, but in the ledger."""


class Fake:
    """Finishes every trial at once: loss = 3 - gains + noise, a function of the trial."""

    def __init__(self, ledger: Ledger, fuse: int = 10**6) -> None:
        self.ledger, self.fuse = ledger, fuse

    def work(self, sweep: str, **_: Any) -> None:
        while any(trial.status == "queued" for trial in self.ledger.trials(sweep)):
            if self.fuse == 0:
                raise Killed
            self.fuse -= 1
            attempt = self.ledger.claim("fake", sweep)
            assert attempt is not None
            self.ledger.finish(attempt, {"metrics": {"val_loss": self.loss(attempt.trial)}})

    def loss(self, trial: Any) -> float:
        model = trial.experiment["model_args"]
        gain = sum(GAINS.get(model[slot]["type"], 0.0) for slot in ("activation", "position", "norm"))
        return 3.0 - gain + random.Random(f"{trial.identity} {trial.seed}").gauss(0, SIGMA)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Path]:
    """A project, for a search that trains."""
    with working_in(write_project(tmp_path, FILES), cache=tmp_path.parent / "cache"):
        yield tmp_path


@pytest.fixture
def project(real: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which something helps and the rest does not."""
    monkeypatch.setattr(ideas, "values_on", lambda experiment, metric, note: VALUES)  # of a real one it takes a second
    return real


@contextmanager
def fake_lab(project: Path, fuse: int = 10**6) -> Iterator[Lab]:
    with Ledger.open(project) as ledger:
        yield Lab(project, ledger, 1, Fake(ledger, fuse), Silent(), StopRequest())


def search(project: Path, trials: int, *, fuse: int = 10**6, **settings: Any) -> tuple[Evolved, list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    asked = SearchSettings(**{"policy": POLICY, "rule": Rule(n_max=6), **settings})
    with fake_lab(project, fuse) as lab:
        return evolve(lab, asked, Limits(trials=trials), lambda facts: told.append(dict(facts))), told


def history(project: Path) -> dict[str, Any]:
    """What a ledger knows, but for when and how often somebody tried."""
    with Ledger.open(project) as ledger:
        return {
            "sweeps": [(row.id, row.conclusion) for row in ledger.sweeps()],
            "decisions": [(each.id, each.arm, each.verdict, each.effect) for each in ledger.decisions()],
            "lineage": [(each.number, each.identity, each.summary, each.loss) for each in ledger.generations()],
            "trials": {row.id: row.result for row in ledger.trials()},
        }


def test_what_helps_is_found_and_promoted_and_every_proposal_is_in_the_ledger(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evolved, told = search(project, 80)
    assert load_experiment().model_args.activation.type == "relu2"
    assert load_experiment().model_args.position.type == "learned"
    assert evolved.gain == pytest.approx(0.05, abs=0.02)
    assert evolved.least_gain == pytest.approx(sum(each.low for each in evolved.promotions))
    assert evolved.least_gain < evolved.gain
    told_of = {facts["confidence"] for facts in told if facts["event"] == "audit"}
    assert {each.confidence for each in evolved.audits} == told_of == {0.9}  # one finalist: two sides of 5 %
    with Ledger.open(project) as ledger:
        assert {each.confidence for each in ledger.decisions() if each.n} == {0.9}
    assert "(90 %), n " in (project / "experiments" / "baseline.yaml").read_text()
    assert evolved.expected_false == pytest.approx(0.05 * len(evolved.audits))
    assert evolved.spent.trials <= 80
    assert evolved.keep_rates["activation"][0] >= 1
    rounds = [facts for facts in told if facts["event"] == "round"]
    proposed = [each["arm"] for facts in rounds for each in facts["proposals"]]
    assert len(rounds) == evolved.rounds
    assert len(proposed) + sum(len(facts["left_out"]) for facts in rounds) == evolved.tried
    with Ledger.open(project) as ledger:
        assert {*proposed} <= {decision.arm for decision in ledger.decisions()}
        assert [each.kind for each in ledger.generations()] == ["manual", *["promoted"] * len(evolved.promotions)]
    assert "position learned" in (project / "experiments" / "baseline.yaml").read_text()
    promoted = {mutation for each in evolved.promotions for mutation in each.stack}
    assert {("activation", "relu2"), ("position", "learned")} <= promoted
    _told_in_words(evolved, told, monkeypatch, capsys)


def test_a_search_at_another_scale_promotes_at_the_baselines_own(project: Path) -> None:
    evolved, _ = search(project, 80, budget=Budget("max_iters", 10), sets=("model_args.n_embd=32",))
    assert evolved.promotions
    assert SearchSettings.from_json(evolved.settings.to_json()) == evolved.settings
    baseline = load_experiment()
    assert baseline.model_args.n_embd == 16
    assert 24 <= baseline.training.max_iters < 30  # a step of relu2 has fewer FLOPs
    with Ledger.open(project) as ledger:
        trained = [row.trial.experiment for row in ledger.trials()]
    assert {each["model_args"]["n_embd"] for each in trained} == {32}
    assert {each["training"]["max_iters"] for each in trained} <= {10, 11, 12}


def _told_in_words(
    evolved: Evolved, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the command says of this search."""

    def again(lab: Any, settings: Any, limits: Any, tell: Any) -> Evolved:
        for facts in told:
            tell(facts)
        return evolved

    monkeypatch.setattr("foundry.lab.evolve", again)
    notes: list[str] = []
    lab: Any = SimpleNamespace(reporter=SimpleNamespace(note=notes.append))
    evolve_command._run(lab, evolved.settings, Limits(trials=80))
    shown = capsys.readouterr().err
    assert f"better by about {evolved.gain:.4f} together" in shown
    assert f"by {evolved.least_gain:.4f} at least" in shown
    assert "next: foundry lineage" in shown
    assert len(notes) == len(told)
    for facts, words in zip(told, notes, strict=True):
        effects = [each["effect"] for each in facts.get("proposals", []) if each["effect"] is not None]
        if effects and not facts["kept"]:
            assert words.endswith(f"{max(effects):+.4f}")


def test_where_nothing_helps_nothing_is_promoted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GAINS, "relu2", -0.01)
    monkeypatch.setitem(GAINS, "learned", -0.01)
    before = (project / "experiments" / "baseline.yaml").read_text()
    evolved, _ = search(project, 100)
    assert evolved.tried >= 10
    assert not evolved.promotions
    assert (project / "experiments" / "baseline.yaml").read_text() == before


def test_a_search_that_is_killed_anywhere_ends_as_one_that_nobody_disturbed(project: Path) -> None:
    evolved, _ = search(project, 60)
    expected = history(project)
    assert evolved.promotions

    shutil.rmtree(project / ".foundry")
    write_project(project, FILES)
    draw, kills = random.Random(5), 0
    while True:
        try:
            again, _ = search(project, 60, fuse=draw.randint(0, 12))
            break
        except Killed:
            kills += 1
    assert kills >= 5
    assert history(project) == expected
    assert (again.audits, again.kept, again.spent.trials) == (evolved.audits, evolved.kept, evolved.spent.trials)


def test_a_promotion_that_a_kill_left_undone_is_made_by_the_same_command(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Lab, "promote", die)
        with pytest.raises(Killed):
            search(project, 100)
    with Ledger.open(project) as ledger:
        assert len(ledger.generations()) == 1
    with fake_lab(project) as lab:
        planned = preview(lab, SearchSettings.last(lab.ledger), Limits())
        assert planned["next"] == "audit"
        assert len(lab.ledger.generations()) == 1  # to look is not to promote
    evolved, _ = search(project, 100)
    assert evolved.promotions[0].generation == 1


def test_the_same_command_again_trains_nothing_and_a_higher_limit_goes_on(project: Path) -> None:
    first, _ = search(project, 40)
    assert first.why == "--max-trials 40 is reached"
    before = history(project)
    again, told = search(project, 40, fuse=0)
    assert (again.audits, again.tried, told) == (first.audits, first.tried, [])
    assert history(project) == before
    further, _ = search(project, 80)
    assert further.rounds > first.rounds
    assert further.search == first.search
    other, _ = search(project, 40, seed=1)
    assert other.search != first.search


def test_limits_that_leave_no_room_for_a_round_are_refused(project: Path) -> None:
    with pytest.raises(UsageError, match="--max-trials 5 leaves no room"):
        search(project, 5)
    with Ledger.open(project) as ledger:
        assert not ledger.trials()  # not even for the noise


def test_when_the_baseline_is_edited_meanwhile_what_was_kept_is_judged_again_on_the_new_one(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote, edits = Lab.promote, [BASELINE.replace("1e-3", "2e-3")]

    def edited_first(lab: Lab, *arguments: Any) -> Any:
        if edits:
            (project / "experiments" / "baseline.yaml").write_text(edits.pop())
        return promote(lab, *arguments)

    monkeypatch.setattr(Lab, "promote", edited_first)
    evolved, told = search(project, 100)
    first, second = evolved.audits[:2]
    assert (first.verdict, first.generation) == ("promote", None)
    assert (second.stack, second.verdict, second.generation) == (first.stack, "promote", 2)
    assert load_experiment().training.learning_rate == 2e-3
    with Ledger.open(project) as ledger:
        assert [each.kind for each in ledger.generations()][:3] == ["manual", "manual", "promoted"]
    replayed, told = search(project, 100, fuse=0)
    assert (replayed.audits, told) == (evolved.audits, [])


def test_a_stack_that_rests_on_many_mutations_is_built_and_promoted(project: Path) -> None:
    long = (
        "from foundry.core.contracts import Params, Variant\n"
        "STACK = [('warmup', '5'), ('grad_clip', '0.5'), ('weight_decay', '0.3'), ('adam_betas', '0.8,0.95'),\n"
        "         ('param', 'position.theta=20000'), ('param', 'attention.qk_norm=true'), ('dropout', '0.05'),\n"
        "         ('ema', '0.98'), ('schedule', 'linear'), ('bad', 'idea'), ('activation', 'relu2')]\n"
        "class Long:\n"
        "    def __init__(self, params): ...\n"
        "    def propose(self, space, history, n, random):\n"
        "        return [STACK, STACK[:-2] + STACK[-1:]] if (space.origin, space.current) == (0, ()) else []\n"
        'VARIANTS = [Variant("proposer", "long", f"{__name__}:Long", Params, "a long stack")]\n'
    )
    write_project(project, {"variants/long.py": long})
    evolved, told = search(project, 60, proposer="long", policy=Policy(2, 0.5, 1, 1))
    assert evolved.why == "nothing is left to propose"
    assert load_experiment().model_args.activation.type == "relu2"
    assert load_experiment().name == "baseline"
    assert "name:" not in (project / "experiments" / "baseline.yaml").read_text()
    with Ledger.open(project) as ledger:
        assert any("there is no mutation type 'bad'" in each.reason for each in ledger.refusals())
    assert told[0]["kept"].endswith("activation relu2")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('x')", "proposer mine failed: variants/mine.py:5: KeyError"),
        ("return [[('depth', 3)]]", "is not a stack of mutations"),
    ],
)
def test_a_proposer_that_fails_is_named(project: Path, body: str, message: str) -> None:
    mine = (
        "from foundry.core.contracts import Params, Variant\n"
        "class Mine:\n"
        "    def __init__(self, params): ...\n"
        f"    def propose(self, space, history, n, random):\n        {body}\n"
        'VARIANTS = [Variant("proposer", "mine", f"{__name__}:Mine", Params, "mine")]\n'
    )
    write_project(project, {"variants/mine.py": mine})
    with pytest.raises(PluginError, match=message):
        search(project, 60, proposer="mine")


# ---- the command ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@not_in_small_doses  # there, test_retry.py lets it train
def test_the_command_trains_for_real_and_goes_on_where_it_was_left(
    real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def foundry(*arguments: str) -> list[dict[str, Any]]:
        command = ["evolve", "--proposals", "2", "--strict", "--max-pairs", "2", "--seed", "3", *arguments]
        code, lines, _ = stream(capsys, *command, "--executor", "inline")
        assert code == ExitCode.OK
        return lines

    (plan,) = foundry("--max-trials", "12", "--dry-run")
    assert (plan["event"], plan["next"], plan["trials"], plan["noise_trials"]) == ("plan", "round", 3, 8)
    assert {"activation", "lr", "depth"} <= plan["space"].keys()
    lines = foundry("--max-trials", "12")
    result, rounds = lines[-1], [line for line in lines if line["event"] == "round"]
    assert {each["arm"] for each in plan["arms"][1:]} == {each["arm"] for each in rounds[0]["proposals"]}
    assert (result["event"], result["rounds"], result["tried"]) == ("result", len(rounds), 2 * len(rounds))
    assert result["trials"] <= 12
    lines = foundry("--max-trials", "30")  # the noise of a generation that was promoted takes 8
    assert lines[-1]["rounds"] > result["rounds"]
    assert lines[-1]["search"] == result["search"]
    with Ledger.open(real) as ledger:
        finished = [row for row in ledger.trials() if row.status == "finished"]
        assert len(finished) == lines[-1]["trials"] + 8  # of the noise
        generation, _ = current_baseline(ledger, real)
        assert generation.number == lines[-1]["generation"] == lines[-1]["promotions"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--proposer", "clever"], ExitCode.USAGE, "proposer has no variant 'clever'"),
        (["--max-hours", "0"], ExitCode.USAGE, "--max-hours 0: must be more than 0"),
        (["--metric", "beauty"], ExitCode.USAGE, "there is no metric 'beauty'"),
        (["--resume"], ExitCode.USAGE, "there is no search to resume"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    project: Path, arguments: list[str], code: ExitCode, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evolve", *arguments, "--executor", "inline"]) == code
    assert message in capsys.readouterr().err
    with Ledger.open(project) as ledger:
        assert not ledger.trials()
