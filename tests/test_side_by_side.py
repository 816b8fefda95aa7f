"""`foundry bench step` and `bench attention`: models side by side, in turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.documents import faults
from tests.project import TINY, lines_of_words, working_in, write_project

from foundry.cli.__main__ import main
from foundry.core.training import side_by_side

BASELINE = f"""{TINY}
training: {{batch_size: 4, threads: 1, device: cpu}}
"""


@pytest.fixture
def project(tmp_path) -> Iterator[Path]:
    files = {"experiments/baseline.yaml": BASELINE, "corpus.txt": lines_of_words(100)}
    with working_in(write_project(tmp_path / "project", files)) as folder:
        yield folder


def test_blocks_take_turns():
    order, taken = [], {}
    blocks = {name: lambda name=name: order.append(name) or len(order) for name in "ab"}
    for _ in range(2):
        side_by_side.in_turn(blocks, taken)
    assert order == ["a", "b", "a", "b"]
    assert taken == {"a": [1, 3], "b": [2, 4]}


def test_a_ratio_is_that_of_the_rounds():
    """A machine that gets slower from round to round changes the seconds, and not what is read of them."""
    first, other = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 4.0, 6.0, 8.0, 10.0]
    figures = side_by_side._figures(other, first)
    assert (figures["seconds"], figures["seconds_between"]) == (6.0, [4.0, 8.0])
    assert (figures["ratio"], figures["ratio_between"]) == (2.0, [2.0, 2.0])


@pytest.mark.parametrize(
    ("command", "arms", "next_step"),
    [
        ("step", ["baseline", "depth 2"], "foundry sweep depth 2"),
        ("step attention", ["baseline", "attention mqa"], "foundry sweep attention mqa"),
        ("attention", ["baseline", "mqa"], "foundry bench step attention mqa"),
    ],
)
def test_every_arm_is_measured_at_every_length(project, capsys, command, arms, next_step):
    name, *words = command.split()
    given = [*words, arms[-1].split()[-1]] if words or name == "attention" else arms[-1].split()
    assert main(["bench", name, *given, "--lengths", "8,16", "--rounds", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert faults(f"bench {name}", told) == []
    assert told["next"] == next_step
    assert [(each["arm"], each["length"], each["rows"]) for each in told["arms"]] == [
        (arm, length, 64 // length) for length in (8, 16) for arm in arms
    ]
    for each in told["arms"]:
        assert each["seconds"] > 0
        assert each["tokens_per_second"] == pytest.approx(64 / each["seconds"])
        assert (each["ratio"] == 1) == (each["arm"] == "baseline")


def test_an_arm_that_cannot_be_had_has_the_reason_in_the_place_of_figures(project, capsys, monkeypatch):
    real = side_by_side.stepper

    def stepper(experiment, *arguments):
        if experiment.model_args.n_layer == 2:
            raise MemoryError("too large")
        return real(experiment, *arguments)

    monkeypatch.setattr(side_by_side, "stepper", stepper)
    assert main(["bench", "step", "depth", "2", "3", "--lengths", "16", "--rounds", "1"]) == 0
    _, baseline, two, three = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert two == ["depth 2", "16", "MemoryError: too large"]
    assert len(three) == len(baseline) == 10


@pytest.mark.parametrize("lengths", ["8,x", "0", "-8", "8;16", ""])
def test_lengths_are_numbers_of_tokens(project, capsys, lengths):
    assert main(["bench", "step", f"--lengths={lengths}"]) == 2
    assert "not a list of token counts" in capsys.readouterr().err


def test_choices_need_not_be_said(project, monkeypatch):
    asked = []

    def bench(*_, seconds, **__):
        asked.append(seconds)
        return {"choices": [], "sets": []}

    monkeypatch.setattr("foundry.core.training.bench.bench", bench)
    for line in (["bench"], ["bench", "experiments/baseline.yaml", "--seconds", "1"], ["bench", "choices"]):
        assert main(line) == 0
    assert asked == [3.0, 1.0, 3.0]
