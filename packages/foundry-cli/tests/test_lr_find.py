"""foundry lr-find: the real training step at a rising rate, a suggestion that trains, and what it says where there is
none."""

import json
import random
import shlex

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.documents import foundry
from tests.project import WORDS, working_in, write_project

from foundry.cli.__main__ import main
from foundry.core.contracts import FoundryError
from foundry.lab.learning_rate import read_off, smooth

EXPERIMENT = """
model_args: {n_layer: 2, n_head: 2, n_embd: 32, block_size: 32}
data: {dataset: {type: text, path: corpus.txt}, tokenizer: char}
training: {max_iters: 60, batch_size: 8, learning_rate: 1e-3, eval_interval: 0, eval_tokens: 2048, threads: 1}
logging: {sample_tokens: 0}
checkpoints: {save_interval: 0}
"""


RAMP = """
from foundry.core.contracts import Params, Variant

class Ramp:
    def __init__(self, params): ...
    def __call__(self, step, progress):
        return 1e-5 * 1e5 ** (step / 59) / 1e-3

VARIANTS = [Variant("schedule", "ramp", f"{__name__}:Ramp")]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    files = {"experiments/tiny.yaml": EXPERIMENT, "variants/ramp.py": RAMP}
    files["corpus.txt"] = " ".join(random.Random(0).choices(WORDS, k=6000))
    with working_in(write_project(tmp_path_factory.mktemp("project"), files)) as folder:
        yield folder


def test_the_suggestion_trains_better_than_a_tenth_and_ten_times_of_it(project, capsys):
    found = foundry(capsys, "lr-find", "experiments/tiny.yaml", "--plot", "lr.png")
    assert (project / "lr.png").stat().st_size > 5000
    assert not list(project.glob("runs/*"))
    losses = {}
    for factor in (0.1, 1, 10):
        setting = f"training.learning_rate={found['suggestion'] * factor}"
        out = foundry(capsys, "train", "experiments/tiny.yaml", "--set", setting, "--out", f"at-{factor}")
        losses[factor] = out["val_loss"]
    assert losses[1] == min(losses.values())


def test_it_takes_the_steps_that_training_takes_with_such_a_schedule(project, capsys):
    sets = ["--set", "training.micro_batch=2", "--set", "training.optimizer=muon", "--set", "model_args.dropout=0.1"]
    found = foundry(capsys, "lr-find", "experiments/tiny.yaml", *sets, "--steps", "60")
    foundry(capsys, "train", "experiments/tiny.yaml", "--out", "ramp", *sets, "--set", "training.schedule=ramp")
    trained = [json.loads(line)["train_loss"] for line in (project / "ramp" / "metrics.jsonl").read_text().splitlines()]
    losses = [point["loss"] for point in found["points"]]
    assert len(losses) > 30
    assert losses == pytest.approx(trained[: len(losses)], rel=1e-5)


def test_the_next_command_trains_at_the_suggestion_and_keeps_the_ratio_of_the_optimizers_own_rate(project, capsys):
    sets = ["--set", "training.optimizer={type: muon, learning_rate: 0.02}"]
    found = foundry(capsys, "lr-find", "experiments/tiny.yaml", *sets, "--steps", "40")
    words = shlex.split(found["next"])
    assert words[:3] == ["foundry", "train", "experiments/tiny.yaml"]
    planned = foundry(capsys, "train", "--dry-run", *words[2:])
    shown = foundry(capsys, "config", "show", *words[2:])["experiment"]["training"]
    assert planned["steps"] == 60
    assert shown["learning_rate"] == found["suggestion"]
    assert shown["optimizer"]["learning_rate"] / shown["learning_rate"] == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--low", "1", "--high", "1e-5"], 2, "--low 1e-5"),
        (["--steps", "5"], 2, "too few"),
        (["--plot", "lr.doc"], 2, ".png"),
        (["--low", "1e-12", "--high", "1e-11", "--steps", "20"], 1, "--high"),
        (["--low", "1e30", "--high", "1e38", "--steps", "20"], 1, "begin lower (--low)"),
    ],
)
def test_a_range_that_shows_nothing_is_refused_in_words(project, capsys, arguments, code, words):
    assert main(["lr-find", "experiments/tiny.yaml", *arguments]) == code
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told


def curve(rates: np.ndarray, centre: float) -> np.ndarray:
    """Falls by 3 nats around `centre`, rises from thirty times of it on."""
    decades = np.log10(rates / centre)
    return 5 - 3 / (1 + np.exp(-6 * decades)) + 2 * np.maximum(0, decades - 1.5)


@given(st.floats(3e-4, 1e-2), st.integers(0, 2**32 - 1))
def test_a_noisy_fall_is_found_where_it_is(centre, seed):
    rates = np.geomspace(1e-5, 1, 100)
    noise = np.random.default_rng(seed).normal(0, 0.03, 100)
    steepest, level = read_off(rates, smooth(rates, curve(rates, centre) + noise))
    assert centre / 2 < steepest < centre * 2
    assert steepest < level < centre * 40


def test_a_loss_that_falls_to_the_end_of_the_range_ends_there():
    rates = np.geomspace(1e-5, 1e-3, 50)
    assert read_off(rates, curve(rates, 1e-3))[1] == pytest.approx(1e-3)
    with pytest.raises(FoundryError, match="lowers the loss"):
        read_off(rates, np.full(50, 5.0))
