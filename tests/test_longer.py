"""A finished run is trained further by a larger budget: exactly where the schedule allows it, and never silently from
the start."""

from __future__ import annotations

import re

import pytest
from tests.project import TINY, lines_of_words, working_in, write_project
from tests.runs import checkpoint

from foundry.cli.__main__ import main
from foundry.core.config import load_experiment
from foundry.core.run import Run, list_runs
from foundry.core.training.longer import kept_for_longer, shared_steps

EXPERIMENT = f"""{TINY}
training: {{max_iters: 8, batch_size: 4, eval_tokens: 64, eval_interval: 0, threads: 1, schedule: constant, ema: 0.9}}
checkpoints: {{save_interval: 3, keep: 1}}
logging: {{log_interval: 2, sample_tokens: 0}}
"""
CLOCK = ("training_seconds", "seconds")


@pytest.fixture
def train(tmp_path, capsys):
    """Trains; what was noted, and the run."""
    files = {"experiments/baseline.yaml": EXPERIMENT, "corpus.txt": lines_of_words(60)}
    with working_in(write_project(tmp_path / "project", files)):

        def run(*words: str, out: str = "") -> tuple[str, Run]:
            capsys.readouterr()
            assert main(["train", *words, *(["--out", out] if out else [])]) == 0
            said = capsys.readouterr()
            (path,) = re.findall(r"^run\t(.*)$", said.out, re.MULTILINE)
            notes = [line for line in said.err.splitlines() if line.startswith("note: ") and "prepared" not in line]
            return "\n".join(notes), Run(tmp_path / "project" / path)

        yield run


def first_step(run: Run) -> int:
    return next(run.metrics())["step"]


@pytest.mark.parametrize(
    ("schedule", "least", "where"),
    [
        ("constant", "16 steps", 8),  # where the shorter one ended
        ("{type: wsd, warmup: 2, decay: 0.3}", "16 steps", 6),  # where its decay begins
        ("constant", "1200 tokens", 8),
    ],
)
def test_it_goes_on_where_the_shorter_one_is_the_same_bit_for_bit(train, schedule, least, where):
    sets, budget = ["--set", f"training.schedule={schedule}"], "8 steps" if "steps" in least else "500 tokens"
    _, shorter = train(*sets, "--budget", budget)
    note, longer = train(*sets, "--budget", least)
    assert longer.path != shorter.path
    assert f"note: continues after step {where} of runs/{shorter.path.name}, which is the same up to there" in note
    note, whole = train(*sets, "--budget", least, "--resume", "never", out="whole")
    assert note == ""
    ours, theirs = (checkpoint(each.path) for each in (longer, whole))
    assert ours.name == theirs.name
    for group in ("model", "optimizer", "ema", "rng"):
        assert (ours / f"{group}.safetensors").read_bytes() == (theirs / f"{group}.safetensors").read_bytes()
    figures = [{k: v for k, v in each.result().items() if k not in ("run", *CLOCK)} for each in (longer, whole)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("schedule", "steps", "kept"),
    [
        ("{type: wsd, warmup: 2, decay: 0.3}", 8, 6),
        ("{type: wsd, warmup: 2, decay: 0.25}", 10**9, 750_000_001),  # no step of them may be looked at one by one
        ("{type: wsd, warmup: 2, decay: 0.9}", 100, 0),  # too little is left
        ("{type: cosine, warmup: 20}", 100, 0),
        ("constant", 100, 0),  # the last step is kept anyway
    ],
)
def test_what_is_kept_for_a_longer_one_is_the_last_step_that_they_share(tmp_path, schedule, steps, kept):
    with working_in(write_project(tmp_path, {"experiments/baseline.yaml": EXPERIMENT})):
        experiment = load_experiment(None, [f"training.schedule={schedule}", f"training.max_iters={steps}"])
        assert kept_for_longer(experiment, steps) == kept
        if steps < 1000 and kept:
            assert shared_steps(experiment, (steps, 10 * steps)) == kept


def test_where_nothing_is_the_same_it_says_so_and_how_to_go_on(train):
    cosine = ["--set", "training.schedule={type: cosine, warmup: 2}"]
    _, shorter = train(*cosine)
    note, longer = train(*cosine, "--budget", "16 steps")
    path = f"runs/{shorter.path.name}"
    assert note == (
        f"note: {path} differs only in its budget (8 steps), but none of its checkpoints fits this run, which begins "
        f"at step 0; to start from its weights: --set init_from={path}"
    )
    assert first_step(longer) == 1
    note, going_on = train(*cosine, "--set", f"init_from={path}")
    assert going_on.config()["init_from"]["step"] == 8


def test_what_is_not_the_same_experiment_is_no_shorter_one(train, tmp_path):
    train()
    for words in (
        ["--set", "seed=2"],
        ["--set", "training.learning_rate=0.1"],
        ["--resume", "never"],
    ):
        note, run = train(*words, "--budget", "16 steps")
        assert note == ""
        assert first_step(run) == 1
    note, _ = train("--budget", "2000 tokens")  # the same budget in another kind: 8 steps have fewer
    assert "continues after step 16 of" in note or "continues after step 8 of" in note
    (tmp_path / "project" / "corpus.txt").write_text(lines_of_words(61))
    note, run = train("--budget", "24 steps")
    assert "begins at step 0" in note
    assert len(list_runs(tmp_path / "project" / "runs")) == 6


def test_what_other_threads_or_other_code_have_trained_is_not_taken_over(train, monkeypatch):
    threads = ["--set", "training.threads=auto"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    train(*threads)
    monkeypatch.setattr("foundry.core.training.longer.code_fingerprint", lambda experiment: "of edited code")
    note, run = train(*threads, "--budget", "16 steps")
    assert "begins at step 0" in note
    assert first_step(run) == 1
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    note, run = train(*threads, "--budget", "24 steps")
    assert "begins at step 0" in note
    assert first_step(run) == 1
