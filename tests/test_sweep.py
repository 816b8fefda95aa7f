"""`foundry sweep` from the command to the promotion, on models of 3,000 parameters that train in half a second.

The commands run in this process. Most train in it as well (`--executor inline`): what is tested there is who trains
what, and what follows. The warm workers have tests of their own below.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.documents import stream
from tests.doses import not_in_small_doses
from tests.processes import wait_for
from tests.project import TINY, know_noise, lines_of_words, working_in, write_project
from tests.sweep_processes import command, start

from foundry.core import load_experiment, train
from foundry.core.code import SOURCES
from foundry.core.contracts import ExitCode
from foundry.kernels import native
from foundry.lab.baseline import current_baseline
from foundry.lab.decide.rule import Rule
from foundry.lab.decide.simulate import SimulatedWorld
from foundry.lab.ledger import Ledger, Noise
from foundry.lab.sweep.dry_run import ENOUGH
from foundry.lab.sweep.plan import Plan, make_plan
from foundry.lab.sweep.question import Question
from foundry.lab.trials.costs import Costs

STEPS, RATE = 24, 3e-3
BASELINE = f"""{TINY}
training:
  max_iters: {STEPS}
  batch_size: 4
  learning_rate: {RATE}
  schedule: {{type: wsd, warmup: 4}}
  eval_interval: 0
  eval_tokens: 512
  threads: 1
checkpoints: {{save_interval: 0}}
"""


@pytest.fixture
def project(tmp_path) -> Iterator[Path]:
    """A project whose noise is known, so that no sweep has to measure it first."""
    files = {"experiments/baseline.yaml": BASELINE, "corpus.txt": lines_of_words(300)}
    with working_in(write_project(tmp_path, files), cache=tmp_path.parent / "cache"):
        know_noise(tmp_path)
        yield tmp_path


@pytest.fixture
def foundry(project, capsys):
    """Runs a command with --json; its exit code, the objects of its stream, and what went to stderr."""

    def run(*arguments: str, executor: str = "inline") -> tuple[int, list[dict], str]:
        return stream(capsys, *arguments, "--executor", executor)

    return run


def trained(lines: list[dict]) -> list[str]:
    """The trials that ended while a command ran."""
    return [line["trial"] for line in lines if line["event"] == "trial" and line["status"] == "finished"]


def last(lines: list[dict]) -> dict:
    assert lines[-1]["event"] == "result"
    return lines[-1]


# ---- the loop ---------------------------------------------------------------------------------------------------


def test_a_better_arm_is_promoted_and_a_worse_one_is_not(foundry, project):
    code, lines, _ = foundry("sweep", "lr", "3e-2", "1e-4", "--promote")
    assert code == ExitCode.OK
    result = last(lines)
    assert result["winner"] == "lr 3e-2"
    assert result["promoted"]["generation"] == 1
    assert {arm["arm"]: arm["verdict"] for arm in result["arms"]} == {"lr 3e-2": "promote", "lr 1e-4": "reject"}
    file = (project / "experiments" / "baseline.yaml").read_text()
    assert "  promoted  lr 3e-2: val_loss" in file
    assert load_experiment().training.learning_rate == 0.03
    assert load_experiment().training.threads == 1  # what its author wrote stays

    # The same command compares with the new baseline, of which one arm is a copy.
    code, lines, _ = foundry("sweep", "lr", "3e-2", "1e-4", "--promote")
    assert code == ExitCode.NOT_PROMOTED
    result = last(lines)
    assert result["generation"] == 1
    # Whose noise is its own: what was known of the one before is not trusted.
    assert [line["kind"] for line in lines if line["event"] == "sweep"] == ["noise", "sweep"]
    assert (result["df"], result["sigma"]) != (30, 0.02)
    (refused,) = result["refused"]
    assert (refused["name"], refused["reason"]) == ("lr 3e-2", "it is the baseline itself")
    assert (refused["mutations"], refused["invalid"]) == ([["lr", "3e-2"]], False)


def test_what_is_decided_is_answered_from_the_ledger(foundry):
    code, first, _ = foundry("sweep", "lr", "1e-4", "--promote")
    assert code == ExitCode.NOT_PROMOTED
    code, again, _ = foundry("sweep", "lr", "1e-4", "--promote")
    assert code == ExitCode.NOT_PROMOTED
    assert trained(first)
    assert not trained(again)
    assert last(again) == last(first)
    assert foundry("sweep", "lr", "1e-4")[0] == ExitCode.OK  # without --promote nothing was missed


def test_a_promotion_can_be_taken_up_later(foundry):
    code, lines, _ = foundry("sweep", "lr", "3e-2")
    assert code == ExitCode.OK
    assert last(lines)["promoted"] is None
    assert last(lines)["next"].endswith("--promote")
    code, again, _ = foundry("sweep", "lr", "3e-2", "--promote")
    assert code == ExitCode.OK
    assert last(again)["promoted"]["generation"] == 1
    assert not trained(again)


def test_resume_finishes_a_promotion_that_was_cut_short(foundry, monkeypatch):
    def die(*_, **__):
        raise KeyboardInterrupt

    assert foundry("sweep", "--resume", "--promote")[0] == ExitCode.USAGE
    with monkeypatch.context() as patch:
        patch.setattr("foundry.lab.sweep.lab.promote", die)
        assert foundry("sweep", "lr", "3e-2", "--promote")[0] == ExitCode.SIGINT
    code, _, error = foundry("sweep", "--resume")
    assert code == ExitCode.USAGE
    assert json.loads(error)["error"]["hint"].endswith("foundry sweep --resume --promote")
    code, lines, _ = foundry("sweep", "--resume", "--promote")
    assert code == ExitCode.OK
    assert last(lines)["promoted"]["generation"] == 1
    assert not trained(lines)
    assert foundry("sweep", "--resume", "--promote")[0] == ExitCode.USAGE  # it is the baseline


def test_unknown_noise_is_measured_first(foundry):
    code, lines, _ = foundry("sweep", "lr", "1e-4", "--budget", "6 steps")
    assert code == ExitCode.OK
    assert "8 runs of the baseline" in next(line["text"] for line in lines if line["event"] == "note")
    assert [line["kind"] for line in lines if line["event"] == "sweep"] == ["noise", "sweep"]
    assert last(lines)["df"] == 7


def test_an_arm_that_cannot_be_trained_is_recorded_and_the_rest_goes_on(foundry, project):
    code, lines, _ = foundry("sweep", "width", "17", "32")
    assert code == ExitCode.OK
    assert [arm["arm"] for arm in last(lines)["arms"]] == ["width 32"]
    assert re.fullmatch("heads .* need a multiple of 8; try 8 or 24", last(lines)["refused"][0]["reason"])
    with Ledger.open(project) as ledger:
        assert [refusal.arm for refusal in ledger.refusals()] == ["width 17"]
    code, _, error = foundry("sweep", "width", "17")
    assert code == ExitCode.INVALID
    assert re.fullmatch("width 17: heads .*; try 8 or 24", json.loads(error)["error"]["hint"])


def test_a_slip_of_the_pen_is_told_before_anything_is_trained(foundry, project):
    for arguments in (
        ["activation", "relu2", "swigluu"],
        ["activatoin", "relu2"],
        ["lr", "3e-2", "--eval-task", "none"],
        ["lr", "3e-2", "--budget", "1e400 flops"],
        ["lr", "3e-2", "--resume"],
        ["--resume", "--alpha", "0.01"],
        ["--null", "--promote"],
        ["--null", "--simulate", "--budget", "10 steps"],
        ["lr", "3e-2", "--null"],
        ["--null", "--dry-run"],
        ["--simulate"],
        ["activation", "gelu", "--sigma", "0.01"],
        ["activation", "gelu", "--rounds", "2"],
    ):
        code, lines, error = foundry("sweep", *arguments)
        assert code == ExitCode.USAGE
        assert not lines
        assert json.loads(error)["error"]["message"]
    with Ledger.open(project) as ledger:
        assert not ledger.sweeps()


def test_a_run_that_diverges_is_a_failure_with_a_reason_and_never_a_score(foundry, project):
    code, lines, _ = foundry("sweep", "lr", "1e18", "1e-4")
    assert code == ExitCode.OK
    arms = {arm["arm"]: arm for arm in last(lines)["arms"]}
    assert arms["lr 1e18"]["verdict"] == "reject"
    assert "Diverged: not finite" in arms["lr 1e18"]["reason"]
    assert arms["lr 1e18"]["effect"] is None
    with Ledger.open(project) as ledger:
        assert next(row.reason for row in ledger.trials(status="failed")).startswith("Diverged")


PLUGIN = """
import os, time
import torch
from foundry.core.contracts import ActivationParams, Variant

def activation(act):
    class Activation(torch.nn.Module):
        def __init__(self, params, dims): super().__init__()
        def forward(self, x):
            if x.device.type != "meta":  # counting FLOPs is not training
                act()
            return x
    return Activation

def fail(): raise ValueError("a fault\\nin two lines")
Faulty, Slow, Crashing = activation(fail), activation(lambda: time.sleep(0.3)), activation(os.abort)
VARIANTS = [Variant("activation", name.lower(), f"{__name__}:{name}", ActivationParams, "of a test")
            for name in ("Faulty", "Slow", "Crashing")]
"""


def test_a_fault_and_a_timeout_are_failures_of_their_arms_alone(foundry, project):
    write_project(project, {"variants/plugin.py": PLUGIN})
    code, lines, error = foundry("sweep", "activation", "faulty", "slow", "relu2", "--trial-seconds", "2")
    assert code == ExitCode.OK
    assert not error
    reasons = {arm["arm"]: arm["reason"] for arm in last(lines)["arms"]}
    assert "ValueError: a fault in two lines" in reasons["activation faulty"]
    assert "timeout: it took longer than 2 s" in reasons["activation slow"]
    assert "failed" not in reasons["activation relu2"]


def test_a_variant_that_was_mended_is_judged_anew(foundry, project):
    plugin = PLUGIN.replace("fail)", "lambda: None)")
    write_project(project, {"variants/plugin.py": plugin})
    _, lines, _ = foundry("sweep", "activation", "faulty")
    assert last(lines)["arms"][0]["verdict"] != "inconclusive"
    assert not trained(foundry("sweep", "activation", "faulty")[1])
    write_project(project, {"variants/plugin.py": plugin + "# mended\n"})
    assert trained(foundry("sweep", "activation", "faulty")[1])


def test_every_source_of_the_kernels_counts_as_code_of_a_trial():
    folder = Path(native.__file__).parent
    sources = [file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert {file.suffix for file in sources} - {".typed"} <= set(SOURCES)


@pytest.mark.slow
@not_in_small_doses
def test_a_crash_is_a_failure_after_some_attempts(foundry, project):
    write_project(project, {"variants/plugin.py": PLUGIN})
    code, lines, _ = foundry("sweep", "activation", "crashing", "--jobs", "2", executor="local")
    assert code == ExitCode.OK
    assert "its worker crashed: SIGABRT" in last(lines)["arms"][0]["reason"]


# ---- fair comparisons -------------------------------------------------------------------------------------------


def test_arms_train_for_equal_flops_and_a_promotion_keeps_the_baselines_budget(foundry, project):
    axes = ("--axis", "depth=2", "--axis", "lr=3e-2")
    code, lines, _ = foundry("sweep", *axes, "--budget", "12 steps", "--set", "training.grad_clip=0.5", "--promote")
    arm = last(lines)["arms"][0]
    assert arm["arm"] == "depth 2 + lr 3e-2"
    assert "x the FLOPs per token" in arm["budget"]
    with Ledger.open(project) as ledger:
        flops = {row.trial.experiment["model_args"]["n_layer"]: row.result["flops"] for row in ledger.trials()}
        assert {row.trial.experiment["training"]["grad_clip"] for row in ledger.trials()} == {0.5}
        assert {each.reason.rpartition("; ")[2] for each in ledger.decisions()} == {"with training.grad_clip=0.5"}
    assert "which the new baseline does not take over" in next(
        line["text"] for line in lines if line["event"] == "note" and "grad_clip" in line["text"]
    )
    assert flops[2] == pytest.approx(flops[1], rel=0.1)  # whole steps, of which there are 6
    assert code == ExitCode.OK
    promoted = load_experiment()
    assert promoted.name == "baseline"
    assert promoted.training.grad_clip == 1.0
    assert promoted.training.max_iters == 12  # twice as dear a step: worth the 24 of the baseline before


def test_a_budget_in_steps_is_equally_many_tokens_for_larger_steps(foundry, project):
    foundry("sweep", "batch_size", "8", "--budget", "12 steps")
    with Ledger.open(project) as ledger:
        tokens = {(row.trial.experiment["training"]["batch_size"], row.result["tokens"]) for row in ledger.trials()}
    assert {rows for rows, _ in tokens} == {4, 8}
    assert len({seen for _, seen in tokens}) == 1


def test_every_arm_has_its_own_learning_rate(foundry):
    _, lines, _ = foundry("sweep", "activation", "relu2", "--lr-grid", "0.03,10", "--max-pairs", "2")
    result = last(lines)
    assert result["control"] == "lr 0.03"
    verdicts = {arm["arm"]: (arm["verdict"], arm["reason"]) for arm in result["arms"]}
    assert "+ lr 0.03 was better" in verdicts["activation relu2"][1]
    assert result["arms"][0]["pairs"] > 0
    assert "lr 0.03" in result["arms"][0]["arm"]


TASK = """
from math import log
from pathlib import Path
from typing import ClassVar
from foundry.core.contracts import Item, Metric, TaskParams, Variant

class LettersParams(TaskParams):
    metrics: ClassVar = ("bits_per_byte", "likelihood")
    limit: int = 3

class Letters:
    '''How likely the model finds each letter of some words; the last is longer than its context.'''
    def __init__(self, params):
        self.words = Path("words.txt").read_text().splitlines()[: params.limit]
        self.digest = " ".join(self.words)
    def run(self, handle):
        assert handle.generate(["th"], max_tokens=2) != [""]
        assert max(map(len, self.words)) > 2 * handle.block_size
        for word, (score, exact) in zip(self.words, handle.score([("th", word) for word in self.words])):
            yield Item(word, {"likelihood": score / len(word), "bits_per_byte": -score / log(2) / len(word)}, "words")

METRICS = [Metric("likelihood", "nats", higher_is_better=True, summary="of a test")]
VARIANTS = [Variant("task", "letters", f"{__name__}:Letters", LettersParams, summary="of a test")]
"""


def test_a_task_ranks_the_arms(foundry, project):
    write_project(project, {"variants/plugin.py": TASK})
    (project / "words.txt").write_text("e earth her heart then there rather three hen\nree tree rather\ne hen\n")
    file = project / "experiments" / "baseline.yaml"
    file.write_text(file.read_text() + "eval: {tasks: {two: {type: letters, limit: 2}}}\n")
    plan = task_plan(project, "two")
    with Ledger.open(project) as ledger:
        ledger.record_noise(Noise("two.bits_per_byte", plan.context, sigma=0.03, df=30, runs=31))
    code, lines, _ = foundry("sweep", "lr", "3e-2", "1e-4", "--eval-task", "two", "--promote")
    assert code == ExitCode.OK
    result = last(lines)
    assert (result["metric"], result["winner"]) == ("two.bits_per_byte", "lr 3e-2")
    with Ledger.open(project) as ledger:
        rows = ledger.trials(status="finished")
        assert all(row.id == row.trial.id for row in rows)
        of_training, of_task = {"val_loss", "val_bpb", "train_loss"}, {"two.bits_per_byte", "two.likelihood"}
        assert rows[0].result["metrics"].keys() == {*of_training, "tokens_per_second", *of_task}
        assert rows[0].result["higher_is_better"] == ["tokens_per_second", "two.likelihood"]
        items = [json.loads(line) for line in (project / rows[0].run / "items" / "two.jsonl").read_text().splitlines()]
    assert [(item["id"][:2], item["cluster"]) for item in items] == [("e ", "words"), ("re", "words")]
    mean = sum(item["scores"]["bits_per_byte"] for item in items) / 2
    assert rows[0].result["metrics"]["two.bits_per_byte"] == pytest.approx(mean)
    assert file.read_text().rstrip().endswith("tasks: {two: {type: letters, limit: 2}}")  # the promoted one, too

    # Of what more is better, numbers keep their sign.
    code, lines, _ = foundry("noise", "--eval-task", "two", "--metric", "two.likelihood", "--seeds", "2")
    assert (last(lines)["metric"], code) == ("two.likelihood", ExitCode.OK)
    assert max(last(lines)["scores"]) < 0 < last(lines)["sigma"]

    # What else is asked, or asked of other words, is another question, of other trials.
    assert len({task_plan(project, text).context for text in ("two", "letters", "{type: letters, limit: 2}")}) == 3
    (project / "words.txt").write_text("e earth her heart then there rather three hen\nree tree\n")
    assert task_plan(project, "two").context != plan.context


def task_plan(project: Path, task: str) -> Plan:
    """Of a sweep that is ranked by a task."""
    question = Question((), Rule(metric=task), tasks=(task,))
    with Ledger.open(project) as ledger:
        return make_plan(*current_baseline(ledger, project), question, 1, lambda each, setting: Costs.of(each))[0]


def test_a_guard_looks_at_the_winner_at_a_larger_scale(foundry, project):
    _, lines, _ = foundry("sweep", "lr", "3e-2", "--confirm-at", "depth=2x")
    assert last(lines)["winner"] == "lr 3e-2"
    with Ledger.open(project) as ledger:
        guards = [ledger.trial(want.trial) for want in ledger.wanted(last(lines)["sweep"]) if want.role == "guard"]
    assert [row.trial.experiment["model_args"]["n_layer"] for row in guards] == [2, 2]


# ---- beside the sweep -------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_trained_and_trains_nothing(foundry, project):
    code, lines, _ = foundry("sweep", "lr", "1e-4", "3e-2", "--budget", "12 steps", "--dry-run")
    assert code == ExitCode.OK
    plan = lines[-1]
    assert [arm["arm"] for arm in plan["arms"]] == ["baseline", "lr 1e-4", "lr 3e-2"]
    assert plan["noise_trials"] == 8
    assert plan["flops"] > (plan["noise_trials"] + 4) * plan["arms"][0]["flops"]
    with Ledger.open(project) as ledger:
        assert not ledger.trials()


def test_what_may_not_be_meant_is_told_of_the_arms_once_before_they_are_trained(foundry):
    remark = "attention.window: 64 tokens cover a whole row (block_size 16): this is full attention"
    _, lines, _ = foundry("sweep", "attention", "swa_64", "mha", "--lr-grid", "2", "--dry-run")
    assert lines[-1]["remarks"] == [f"attention swa_64: {remark}"]
    _, lines, _ = foundry("ablate", "--axis", "attention=swa_64", "--axis", "activation=relu2,gelu", "--seeds", "1")
    notes = [line["text"] for line in lines[: [line["event"] for line in lines].index("sweep")]]
    assert notes == [f"attention swa_64 + activation relu2, attention swa_64 + activation gelu: {remark}"]
    _, lines, _ = foundry("sweep", "attention", "swa_64", "--budget", "6 steps")
    assert lines[0]["text"] == f"attention swa_64: {remark}"


def test_a_dry_run_of_many_seeds_simulates_no_more_than_one_of_few(foundry, project, monkeypatch):
    asked = 0

    def count(self, request, real=SimulatedWorld.__call__):
        nonlocal asked
        asked += 1
        return real(self, request)

    monkeypatch.setattr(SimulatedWorld, "__call__", count)
    arms = ("1e-4", "2e-4", "3e-4")
    code, lines, _ = foundry("sweep", "lr", *arms, "--seeds", "1000", "--dry-run")
    assert code == ExitCode.OK
    assert 3000 < lines[-1]["trials"] < 4000
    assert asked < ENOUGH + lines[-1]["trials"] * 2
    code, _, error = foundry("sweep", "lr", *arms, "--seeds", "100000", "--dry-run")
    assert code == ExitCode.USAGE
    assert "less than or equal to 1000" in json.loads(error)["error"]["message"]


def test_noise_grows_with_more_seeds_and_says_what_can_be_decided(foundry):
    _, lines, _ = foundry("noise", "--seeds", "2", "--budget", "6 steps")
    assert (last(lines)["runs"], last(lines)["df"]) == (2, 1)
    _, lines, _ = foundry("noise", "--seeds", "3", "--budget", "6 steps")
    result = last(lines)
    assert (result["runs"], result["df"]) == (3, 2)
    assert len(trained(lines)) == 3  # of which two were known: told again, not trained again
    assert 0 < result["power"][0]["power"] <= result["power"][-1]["power"] <= 1
    assert result["smallest_decidable"] > 0


def test_an_ablation_trains_every_combination_and_shares_trials_with_sweeps(foundry, project):
    axes = ("--axis", "lr=3e-2,1e-4", "--axis", "norm=rmsnorm,layernorm")
    code, lines, _ = foundry("ablate", *axes, "--seeds", "1", "--csv", "grid.csv", "--plot", "grid.svg")
    assert code == ExitCode.OK
    cells = {cell["arm"]: cell for cell in last(lines)["cells"]}
    assert len(cells) == 5
    assert cells["lr 3e-2 + norm layernorm"]["effect"] > 0 > cells["lr 1e-4 + norm rmsnorm"]["effect"]
    rows = (project / "grid.csv").read_text().splitlines()
    assert rows[0].startswith("arm,lr,norm,runs,val_loss,effect")
    assert len(rows) == 6
    assert "<svg" in (project / "grid.svg").read_text()
    with Ledger.open(project) as ledger:
        before = len(ledger.trials())
    foundry("ablate", *axes, "--seeds", "1")
    with Ledger.open(project) as ledger:
        assert len(ledger.trials()) == before


def test_null_sweeps_have_nothing_to_find(foundry):
    code, lines, _ = foundry("sweep", "--null", "--rounds", "2", "--arms", "1", "--max-pairs", "2")
    assert code == ExitCode.OK
    assert last(lines)["rounds"] == 2
    assert last(lines)["false_promotions"] == 0


# ---- rungs ------------------------------------------------------------------------------------------------------


def test_a_rung_goes_on_from_before_the_decay_of_the_one_below_bit_for_bit(project):
    from fractions import Fraction

    from foundry.lab import Question, Rule, open_lab

    rule = Rule(rungs=(Fraction(1, 2), Fraction(1)), finalists=1)
    question = Question(((("activation", "relu2"),), (("activation", "gelu"),)), rule)
    with open_lab(project, executor="inline") as lab:
        result = lab.sweep(question)
        wanted = [want for want in lab.ledger.wanted(result.sweep) if want.role == "screen" and want.share == "1"]
        rows = [lab.ledger.trial(want.trial) for want in wanted]
    notes = (project / ".foundry" / "trials" / rows[0].id / "metrics.jsonl").read_text().splitlines()
    assert len(notes) == rows[0].result["step"]  # the copied rows, and its own
    for row in rows:
        alone = train(load_plain(row.trial.experiment), project / "alone" / row.id)
        assert (row.result["val_loss"], row.result["train_loss"]) == (alone["val_loss"], alone["train_loss"])
    longer = json.loads(notes[-1])
    assert longer["step"] == STEPS


def load_plain(experiment: dict):
    from foundry.core.config import from_plain

    return from_plain(experiment)


# ---- workers ----------------------------------------------------------------------------------------------------


def test_warm_workers_decide_as_a_training_by_hand_would(foundry, project):
    code, lines, _ = foundry("sweep", "lr", "1e-4", "3e-2", "--jobs", "2", executor="local")
    assert code == ExitCode.OK
    assert last(lines)["winner"] == "lr 3e-2"
    with Ledger.open(project) as ledger:
        rows = ledger.trials(status="finished")
        assert {row.attempts for row in rows} == {1}
        row = rows[-1]  # not the first that its worker trained
        assert ledger.curve(row.id)[-1]["val_loss"] == row.result["val_loss"]
    assert not (project / row.run / "checkpoints").exists()
    alone = train(load_plain(row.trial.experiment), project / "alone")
    assert (row.result["val_loss"], row.result["train_loss"]) == (alone["val_loss"], alone["train_loss"])


def running(project: Path):
    with Ledger.open(project) as ledger:
        return ledger.trials(status="running")


def test_ctrl_c_leaves_a_sweep_that_goes_on(project):
    baseline = project / "experiments" / "baseline.yaml"
    baseline.write_text(BASELINE.replace(f"max_iters: {STEPS}", "max_iters: 400"))
    know_noise(project)
    first = start(command, project, 2, ["sweep", "lr", "1e-5", "--json"], "first.txt")
    row = wait_for(lambda: running(project))[0]
    metrics = project / row.run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size > 1000)
    os.kill(first.pid, signal.SIGINT)
    first.join()
    assert first.exitcode == ExitCode.STOPPED, (project / "first.txt").read_text()
    with Ledger.open(project) as ledger:
        assert [sweep.status for sweep in ledger.sweeps()][-1] == "interrupted"
        assert ledger.trial(row.id).status == "queued"
    steps = [int(path.name[5:]) for path in (project / row.run / "checkpoints").glob("step-*")]
    assert steps  # saved on the way out

    again = start(command, project, 2, ["sweep", "--resume", "--promote", "--json"], "again.txt")
    again.join()
    said = (project / "again.txt").read_text()
    assert again.exitcode == ExitCode.NOT_PROMOTED, said
    with Ledger.open(project) as ledger:
        done = ledger.trial(row.id)
        assert (done.status, done.attempts) == ("finished", 2)
        assert [sweep.status for sweep in ledger.sweeps()] == ["finished"]
    assert json.loads(said.splitlines()[-1])["arms"][0]["arm"] == "lr 1e-5"
