"""Each program of examples/ runs, and prints what it is for."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from tests.project import working_in

EXAMPLES = Path(__file__).parents[1] / "examples"
PRINTS = {
    "train_on_own_text": r"\A[0-9.]+ bits per byte after 60 steps\n1",
    "sweep_from_python": r"\Awinner: .*\nlr 1e-2: ",
    "table_of_runs": r"\A[0-9.]+  own-text-",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with working_in(tmp_path_factory.mktemp("examples")) as folder:
        yield folder


@pytest.mark.parametrize("name", PRINTS)
def test_it_runs_and_prints_what_it_is_for(folder, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert re.search(PRINTS[name], capsys.readouterr().out)


def test_every_example_is_run_and_listed():
    files = {path.stem for path in EXAMPLES.glob("*.py")}
    assert files == set(PRINTS)
    assert {*re.findall(r"\]\((\w+)\.py\)", (EXAMPLES / "README.md").read_text())} == files
