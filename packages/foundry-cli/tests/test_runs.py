"""`foundry runs`: which run was which, and what is kept of it."""

from __future__ import annotations

import csv
import json
import os
import re
from io import StringIO
from pathlib import Path

import pytest
from tests.project import TINY, working_in, write_project

from foundry.cli.__main__ import main
from foundry.core import run_rows
from foundry.core.run import Run

pytestmark = pytest.mark.quick

EXPERIMENT = f"{TINY}\ntraining: {{max_iters: 3, batch_size: 4, eval_tokens: 64, eval_interval: 0, threads: 1}}\n"
FAILS = """
from foundry.core.contracts import Variant
VARIANTS = [Variant("schedule", "fails", f"{__name__}:schedule", summary="of a test")]
def schedule(params):
    def at(step, done):
        if step > 1:
            raise KeyError("step 2")
        return 1.0
    return at
"""
TRAINED = {
    "plain": [],
    "wide": ["--set", "model_args.n_embd=32", "--set", "model_args.norm=layernorm"],
    "other": [
        "--set",
        "training.optimizer={type: muon, momentum: 0.9}",
        "--set",
        "seed=7",
        "--set",
        "data.cache=x",
    ],
    "crashes": ["--set", "training.schedule=fails"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    files = {
        "experiments/baseline.yaml": EXPERIMENT,
        "variants/fails.py": FAILS,
        "corpus.txt": "the hen on the hill " * 60,
    }
    with working_in(write_project(tmp_path_factory.mktemp("project"), files)) as folder:
        for age, (name, sets) in enumerate(TRAINED.items()):
            assert main(["train", *sets, "--out", f"runs/{name}"]) == (4 if name == "crashes" else 0)
            os.utime(f"runs/{name}/config.json", (1e9 + age, 1e9 + age))
        (folder / "runs" / "stopped").mkdir()
        (folder / "runs" / "stopped" / "config.json").write_bytes(Path("runs/plain/config.json").read_bytes())
        yield folder


@pytest.fixture
def runs(trained, capsys):
    def run(*words: str, code: int = 0):
        capsys.readouterr()
        assert main(["runs", *words]) == code
        return capsys.readouterr()

    return run


def rows(printed: str) -> list[list[str]]:
    return [line.split("\t") for line in printed.splitlines()]


def test_each_says_when_it_began_how_it_ended_and_what_differs_from_the_baseline(runs):
    head, *listed = rows(runs().out)
    assert head == ["run", "date", "status", "step", "val_loss", "size", "changes", "remark"]
    told = {row[0]: row for row in listed}
    assert list(told) == [*TRAINED, "stopped"]
    assert {name: row[2] for name, row in told.items()} == {
        "plain": "finished", "wide": "finished", "other": "finished", "crashes": "crashed", "stopped": "stopped"
    }  # fmt: skip
    assert told["plain"][6] == ""
    assert told["wide"][6] == "n_embd: 16 -> 32, norm: rmsnorm -> layernorm"
    assert told["other"][6] == "optimizer: adamw -> muon, seed: 1337 -> 7"  # of a cache, which decides nothing, no word
    assert told["crashes"][6] == "schedule: cosine -> fails"
    assert re.search(r"variants/fails\.py:\d+: KeyError: 'step 2'|KeyError", told["crashes"][7])
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", row[1]) for row in listed)
    assert all(re.fullmatch(r"[0-9.]+ [KM]iB", row[5]) for row in listed)


def test_it_runs_no_code_of_the_project(runs, trained):
    (trained / "variants" / "marks.py").write_text("open('ran', 'w')\nVARIANTS = []\n")
    runs()
    assert not (trained / "ran").exists()
    (trained / "variants" / "marks.py").unlink()


def test_what_crashed_and_goes_on_is_no_longer_crashed(runs, trained):
    assert Run(Path("runs/crashes")).error()
    (trained / "variants" / "fails.py").write_text(FAILS.replace("step > 1", "step > 99"))
    write_project(trained, {})
    assert main(["train", *TRAINED["crashes"], "--out", "runs/crashes"]) == 0
    assert [row["status"] for row in run_rows("runs") if row["run"] == "crashes"] == ["finished"]
    assert Run(Path("runs/crashes")).error() == ""


def test_a_run_that_is_trained_now_is_said_to_run_and_is_not_removed(runs, trained):
    run = Run(trained / "runs" / "stopped")
    with run.held():
        assert [row["status"] for row in run_rows("runs") if row["run"] == "stopped"] == ["running"]
        for words in (["rm", "stopped", "--yes"], ["rename", "stopped", "gone"]):
            assert "is training in" in runs(*words, code=6).err
    assert run.config()


def test_sorted_filtered_limited_and_as_csv(runs, trained):
    def names(*words: str) -> list[str]:
        return [row["run"] for row in json.loads(runs(*words, "--json").out)["runs"]]

    losses = {row["run"]: row["val_loss"] for row in run_rows("runs") if row["val_loss"] is not None}
    ranked = sorted(losses, key=losses.__getitem__)
    assert names("--sort", "val_loss")[: len(ranked)] == ranked  # those without one come last
    assert names("--sort", "-val_loss")[: len(ranked)] == ranked[::-1]
    assert names("--sort", "val_loss", "--limit", "1") == ranked[:1]
    assert names("--limit", "2") == [*TRAINED, "stopped"][-2:]
    assert names("--filter", "status=finished", "--filter", "run=*er*") == ["other"]
    assert names("--filter", "changes=n_embd*") == ["wide"]
    for words, told in ((["--filter", "x"], "not KEY=VALUE"), (["--sort", "loss"], "runs have no 'loss'; ")):
        assert told.rstrip("; ") in runs(*words, code=2).err
    table = [*csv.DictReader(StringIO(runs("--csv", "--filter", "run=wide").out))]
    assert [(row["run"], row["changes"]) for row in table] == [("wide", "n_embd: 16 -> 32; norm: rmsnorm -> layernorm")]
    assert float(table[0]["val_loss"]) == losses["wide"]


def test_a_run_is_found_by_the_beginning_of_its_name(runs, capsys):
    assert main(["generate", "wid", "--max-tokens", "3", "--prompt", "th"]) == 0
    assert capsys.readouterr().out.startswith("th")
    assert main(["generate", "wiide"]) == 3
    assert "did you mean wide?" in capsys.readouterr().err


def test_tags_notes_and_names_stay_with_a_run(runs, trained):
    runs("tag", "pla", "keep", "best")  # the beginning of a name is enough
    runs("tag", "plain", "keep", "--off")
    runs("note", "plain", "the first, with an é")
    assert Run(trained / "runs" / "plain").labels() == {"tags": ["best"], "note": "the first, with an é"}
    assert [row[0] for row in rows(runs("--filter", "tags=best").out)] == ["run", "plain"]
    assert rows(runs("--filter", "tags=best").out)[1][7:9] == ["best", "the first, with an é"]
    runs("rename", "plain", "first")
    assert main(["train", *TRAINED["plain"], "--out", "runs/first"]) == 0  # still the run that it was
    assert "already exists" in runs("rename", "first", "wide", code=2).err
    for name in ("a/b", ".hidden", "..", ""):
        assert "is not the name of a folder" in runs("rename", "first", name, code=2).err
    runs("rename", "first", "plain")


def test_what_is_no_run_is_not_touched(runs, trained):
    """Not even a folder with a config.json, as an exported model has."""
    (trained / "mine").mkdir()
    (trained / "mine" / "thesis.txt").write_text("years of work")
    for config in (None, '{"model_type": "llama"}'):
        if config:
            (trained / "mine" / "config.json").write_text(config)
        for words in (["rm", "mine", "--yes"], ["tag", "mine", "a"], ["note", "mine", "a"], ["rename", "mine", "b"]):
            assert "mine" in runs(*words, code=3).err
    assert sorted(path.name for path in (trained / "mine").iterdir()) == ["config.json", "thesis.txt"]


def test_what_stands_before_a_command_is_not_passed_over(runs):
    told = runs("--limit", "1", "--sort", "step", "tag", "plain", "x", code=2).err
    assert "--sort, --limit: belongs to `foundry runs`, not to `runs tag`" in told


def test_what_is_removed_was_meant(runs, trained):
    for name in ("a", "b"):
        (trained / "runs" / f"copy-{name}").mkdir()
        (trained / "runs" / f"copy-{name}" / "config.json").write_bytes(Path("runs/plain/config.json").read_bytes())
        (trained / "runs" / f"copy-{name}" / "checkpoints").mkdir()
    assert "may be any of 2 runs" in runs("rm", "copy-", "--yes", code=3).err
    assert "did you mean" in runs("rm", "copyb", "--yes", code=3).err
    assert "--yes removes without asking" in runs("rm", "copy-a", code=2).err  # nobody is there to be asked
    runs("rm", "copy-a", "--checkpoints", "--yes")
    assert not (trained / "runs" / "copy-a" / "checkpoints").exists()
    assert (trained / "runs" / "copy-a" / "config.json").exists()
    runs("rm", "copy-a", "runs/copy-b", "--yes")
    assert not list((trained / "runs").glob("copy-*"))
