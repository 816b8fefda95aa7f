"""Every mutation that `foundry mutate --list` shows trains: 20 steps of a small model, after which the loss is lower.

The mutations come from the registry: each variant and shorthand of a slot, and the example of each other type. A few,
drawn with a fixed seed, belong to the everyday tests; `pytest -m slow` trains all of them.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import inspect
import optparse
import random
import typing
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
from tests.doses import dose
from tests.project import working_in, write_project
from tests.runs import rows

from foundry.core import load_experiment
from foundry.core.config import Experiment
from foundry.core.config.assemble import edit
from foundry.core.config.mutate import list_mutations, mutate
from foundry.core.registry import registry
from foundry.core.training import train

STEPS = 20
EXPERIMENT = f"""
model_args: {{n_layer: 2, n_head: 4, n_embd: 32, block_size: 32}}
data: {{dataset: {{type: text, path: corpus.txt}}, tokenizer: byte}}
training:
  {{max_iters: {STEPS}, batch_size: 8, learning_rate: 3e-3, schedule: {{type: cosine, warmup: 2}}, eval_interval: 0,
   eval_tokens: 256, threads: 1}}
logging: {{log_interval: 1, sample_tokens: 0}}
checkpoints: {{save_interval: 0}}
"""


class Quiet:
    """A reporter that says nothing."""

    def started(self, plan): ...
    def note(self, text): ...
    def step(self, row, progress, seconds_left): ...
    def sample(self, step, text): ...
    def finished(self, result): ...


def mutations() -> list:
    """(type, value) of each."""
    listed = [(row.type, row.value) for row in list_mutations(registry())]
    listed.remove(("tokenizer", "pretrained"))  # needs weights to begin with: tests/test_zoo.py
    random.Random(0).shuffle(listed)
    return [pytest.param(*row, id="_".join(row)) for row in listed]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Iterator[Experiment]:
    sources = [Path(module.__file__).read_text() for module in (argparse, ast, datetime, inspect, optparse, typing)]
    corpus = "\n".join(sources)  # enough for every tokenizer's vocabulary
    files = {"experiments/tiny.yaml": EXPERIMENT, "corpus.txt": corpus}
    with working_in(write_project(tmp_path_factory.mktemp("project"), files)):
        yield load_experiment(Path("experiments/tiny.yaml"))


@pytest.mark.parametrize(("type", "value"), dose(mutations(), everyday=4))
def test_a_mutation_trains(base, tmp_path, type, value):
    mutated = mutate(base, type, value).experiment
    experiment = edit(mutated, {"training.max_iters": STEPS}, "this test")  # larger steps would be fewer
    train(experiment, tmp_path / "run", reporter=Quiet())
    losses = [row["train_loss"] for row in rows(tmp_path / "run")]
    assert len(losses) == STEPS
    assert fmean(losses[-3:]) < fmean(losses[:3]) - 0.02
