"""Projects as tests make them: a folder of few files, in which one works until the test is over."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from foundry.core.registry import _registry

TINY = """\
model_args: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 16}
data: {dataset: {type: text, path: corpus.txt}, tokenizer: char}"""
"""A model of 3,000 parameters and what it reads; each test adds how it is trained."""

QUICKLY = [
    f"--set={setting}"
    for setting in (
        "model_args.n_layer=1",
        "model_args.n_embd=32",
        "model_args.block_size=16",
        "training.max_iters=3",
        "training.batch_size=4",
        "training.eval_tokens=256",
        "training.threads=1",
        "logging.sample_tokens=5",
    )
]
"""Options with which the baseline of `foundry init` trains in no time."""

WORDS = ("the", "then", "there", "three", "tree", "hen", "her", "rather", "earth", "heart")


def lines_of_words(number: int) -> str:
    """The same `number` lines of nine words each, every time: the smallest model learns something of them in a few
    steps."""
    draw = random.Random(0)
    return "\n".join(" ".join(draw.choices(WORDS, k=9)) for _ in range(number))


def write_project(folder: Path, files: Mapping[str, str]) -> Path:
    """Write `files`, a text for each path in `folder`, also into a project that this process knows already."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    _registry.cache_clear()
    return folder


@contextmanager
def working_in(folder: Path, cache: Path | None = None) -> Iterator[Path]:
    """Have `folder` for the working directory, with nothing of the tester's environment: by default what is prepared
    there is kept in it, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FOUNDRY_CACHE", str(cache or folder / "cache"))
        patch.delenv("FOUNDRY_PLUGINS", raising=False)
        patch.delenv("FOUNDRY_DEBUG", raising=False)
        yield folder


def know_noise(project: Path, *metrics: str, sigma: float = 0.02) -> None:
    """As if somebody had measured the noise of the baseline, by default that of val_loss."""
    from foundry.core import load_experiment
    from foundry.lab.ledger import Ledger, Noise
    from foundry.lab.sweep.plan import noise_context
    from foundry.lab.trials.fingerprint import data_fingerprint

    experiment = load_experiment()
    with Ledger.open(project) as ledger:
        for metric in metrics or ("val_loss",):
            context = noise_context(metric, experiment.identity, data_fingerprint(experiment))
            ledger.record_noise(Noise(metric, context, sigma, df=30, runs=31))
