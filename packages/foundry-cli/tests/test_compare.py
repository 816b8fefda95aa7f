"""foundry compare: two experiments made equal, trained in pairs, and a verdict that a repetition looks up.

The models have 3,000 parameters; they are trained in this process (`--executor inline`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
from tests.documents import stream
from tests.project import TINY, know_noise, lines_of_words, working_in, write_project

from foundry.cli import plots
from foundry.cli.commands.compare import _draw_plan
from foundry.lab.ledger.ledger import Ledger

STEPS = 24
BASELINE = f"""{TINY}
training:
  max_iters: {STEPS}
  batch_size: 4
  learning_rate: 3e-3
  eval_interval: 6
  eval_tokens: 512
  threads: 1
checkpoints: {{save_interval: 0}}
"""
OTHERS = {
    "fast": "training: {learning_rate: 1e-2}",
    "same": "training: {threads: 2}\nlogging: {log_interval: 7}",
    "hardly": "training: {optimizer: {type: adamw, eps: 2e-8}}",
    "longer": "training: {max_iters: 40, learning_rate: 1e-2, eval_tokens: 1024}",
    "deep": "seed: 7\nmodel_args: {n_layer: 2}",
    "short_rows": "model_args: {block_size: 8}",
    "broken": "training: {learning_rate: 1e30, grad_clip: 0}",
    "elsewhere": "data: {dataset: {type: text, path: other.txt}}",
    "windowed": "model_args: {attention: swa_64}",
    "bytes": "data: {tokenizer: byte}",
}
SIGMA = 0.02


@pytest.fixture
def project(tmp_path) -> Iterator[Path]:
    """A project whose noise is known, so that no comparison has to measure it first."""
    files = {"experiments/baseline.yaml": BASELINE}
    files |= {f"experiments/{name}.yaml": f"extends: baseline.yaml\n{text}\n" for name, text in OTHERS.items()}
    files |= {"corpus.txt": lines_of_words(300), "other.txt": lines_of_words(200)}
    with working_in(write_project(tmp_path, files), cache=tmp_path.parent / "cache"):
        know_noise(tmp_path, "val_loss", "val_bpb", sigma=SIGMA)
        yield tmp_path


@pytest.fixture
def compare(project, capsys):
    """`foundry compare baseline.yaml OTHER.yaml`; its exit code, the objects of its stream, and its stderr."""

    def run(other: str, *options: str) -> tuple[int, list[dict], str]:
        files = ["experiments/baseline.yaml", f"experiments/{other}.yaml"]
        return stream(capsys, "compare", *files, *options, "--executor", "inline")

    return run


def test_what_may_not_be_meant_of_b_is_told_before_it_is_trained(compare):
    code, lines, _ = compare("windowed", "--dry-run")
    assert code == 0
    [remark] = lines[-1]["remarks"]
    assert remark.startswith("windowed: attention.window: 64 tokens cover a whole row")


def trials(project: Path) -> dict[tuple[str, int], dict]:
    """(arm, seed) -> the experiment that was trained."""
    with Ledger.open(project) as ledger:
        rows = {row.id: row for row in ledger.trials()}
        wants = [want for sweep in ledger.sweeps() for want in ledger.wanted(sweep.id)]
        return {(want.arm, rows[want.trial].trial.seed): dict(rows[want.trial].trial.experiment) for want in wants}


def test_the_better_one_is_found_in_pairs_and_the_same_question_is_answered_from_the_ledger(
    compare, project, monkeypatch
):
    drawn = []
    draw = plots.draw_comparison
    monkeypatch.setattr(plots, "draw_comparison", lambda compared, path: draw(drawn.append(compared) or compared, path))
    code, lines, _ = compare("fast", "--plot", "curves.png")
    assert code == 0
    first = lines[-1]
    assert (first["event"], first["choice"]) == ("result", "second")
    assert first["next"] == "foundry train experiments/fast.yaml"
    assert first["verdict"].startswith("fast is better than baseline by 0.")
    assert "P(wrong) <= 5%" in first["verdict"]
    assert 0 < first["low"] < first["effect"] < first["high"]
    ours, theirs = first["sides"]
    assert first["effect"] == pytest.approx(ours["val_loss"] - theirs["val_loss"], rel=0.2)  # a median, of means
    assert ours["kv_bytes_per_token"] == theirs["kv_bytes_per_token"] > 0
    assert (project / "curves.png").stat().st_size > 5000
    for curves, side in zip(drawn[0].curves, first["sides"], strict=True):
        assert fmean(curve[-1]["val_loss"] for curve in curves) == pytest.approx(side["val_loss"])

    trained = trials(project)
    assert {arm for arm, _ in trained} == {"baseline", "fast"}
    assert {s for a, s in trained if a == "fast"} == {s for a, s in trained if a == "baseline"}
    with Ledger.open(project) as ledger:
        assert [row.spec["kind"] for row in ledger.sweeps()] == ["compare"]
    code, again, _ = compare("fast")
    assert [line["event"] for line in again] == ["result"]
    assert again[0] == first
    assert trials(project).keys() == trained.keys()


def test_experiments_that_hardly_differ_are_called_alike(compare):
    code, lines, _ = compare("hardly", "--delta", "0.1")
    assert (code, lines[-1]["choice"]) == (0, "alike")
    assert lines[-1]["verdict"].startswith("neither seems better by 0.1 nats, either is 10 times less likely than none")
    assert "too early for an interval" in lines[-1]["verdict"]


@pytest.mark.parametrize(
    ("other", "steps", "words"),
    [
        ("longer", {STEPS}, "longer trains for 24 steps, worth the 24 steps of baseline; its own are 40 steps"),
        ("short_rows", range(2 * STEPS, 2 * STEPS + 6), "worth the 24 steps of baseline"),
        ("deep", range(10, 15), "x the FLOPs per token"),
    ],
)
def test_both_train_for_the_same_budget_and_are_validated_on_the_same_text(compare, project, other, steps, words):
    _, lines, _ = compare(other, "--seeds", "1")
    assert any(words in each for each in lines[-1]["made_equal"])
    for (arm, _), experiment in trials(project).items():
        training = experiment["training"]
        assert training["max_iters"] in (steps if arm == other else {STEPS})
        assert (training["eval_tokens"], training["threads"]) == (512, 1)


@pytest.mark.parametrize(
    ("other", "options", "code", "words"),
    [
        ("elsewhere", (), 3, "data.dataset.path: corpus.txt -> other.txt"),
        ("baseline", (), 2, "the same experiment"),
        ("same", (), 2, "with 1 thread"),
        ("fast", ("--metric", "beauty"), 2, "there is no metric"),
        ("fast", ("--plot", "curves.doc"), 2, ".png"),
        ("missing", (), 3, "missing.yaml"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(compare, project, other, options, code, words):
    ended, lines, told = compare(other, *options)
    assert (ended, lines) == (code, [])
    assert words in str(json.loads(told)["error"])
    assert not trials(project)


def test_tokenizers_are_compared_in_bits_per_byte(compare):
    code, lines, _ = compare("bytes", "--seeds", "2")
    assert code == 0
    assert "their tokens differ, so val_bpb decides" in lines[-1]["made_equal"]
    assert lines[-1]["metric"] == "val_bpb"
    ours, theirs = (side["val_bpb"] for side in lines[-1]["sides"])
    assert lines[-1]["effect"] == pytest.approx(ours - theirs, rel=0.2)


def test_one_that_cannot_be_trained_has_lost_and_the_verdict_says_why(compare):
    code, lines, _ = compare("broken")
    assert (code, lines[-1]["choice"]) == (0, "first")
    assert "broken failed in 6 of 6 pairs" in lines[-1]["verdict"]
    assert "not finite" in lines[-1]["verdict"]


def test_a_dry_run_trains_nothing_and_says_how_much_would_be(compare, project, capsys):
    code, lines, _ = compare("deep", "--dry-run", "--seeds", "5", "--budget", "10 steps")
    planned = lines[0]
    assert (code, len(lines), planned["event"]) == (0, 1, "plan")
    assert (planned["least_trials"], planned["most_trials"]) == (2, 10)
    assert [change["key"] for change in planned["differences"]] == ["model_args.n_layer"]  # seeds are the comparison's
    assert planned["noise_trials"] == 8  # at another budget than the one whose noise is known
    assert planned["made_equal"][0] == "both train for 10 steps"
    a, b = planned["flops_per_trial"]
    assert b == pytest.approx(a, rel=0.1)
    assert not trials(project)
    _draw_plan(planned)
    assert "seconds of a training of baseline, about" in capsys.readouterr().out
