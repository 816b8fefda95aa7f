"""One wrong bit, in either copy of a ledger: it is found, mended from the other copy, and no good event is lost."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.doses import SMALL

from foundry.core.contracts import FoundryError, InvalidData
from foundry.lab.ledger import Decision, Generation, Ledger, Trial

FLIPS = 50 if SMALL else 500

GENERATION = Generation(0, "identity", {"seed": 1}, "manual", "imported", None, None, "hash", 0.0, text="seed: 1\n")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A project that was worked in, with nothing left to do."""
    project = tmp_path_factory.mktemp("whole")
    with Ledger.open(project) as ledger:
        ledger.promote(None, GENERATION)
        for n in range(3):
            sweep = ledger.start_sweep({"kind": "sweep", "generation": 0, "n": n})
            asked = [Trial(f"i{n}", seed, "code", "data", {"n": seed}) for seed in range(4)]
            ledger.request(sweep, [(trial, seed, "screen", f"norm {n}", "1") for seed, trial in enumerate(asked)])
            while attempt := ledger.claim("worker", sweep):
                result = {"metrics": {"val_loss": 2 + attempt.trial.seed / 8}, "tokens": 100}
                ledger.finish(attempt, result, [{"step": 1, "tokens": 50, "val_loss": 3.0}])
            ledger.decide(Decision(f"d{n}", sweep, 0, f"i{n}", f"norm {n}", "val_loss", "reject", "no gain", 0.1, 0.0,
                                   0.2, -2.0, 4, {"alpha": 0.05}, 0.005, 0.0))  # fmt: skip
            ledger.finish_sweep(sweep, {"winner": None, "n": n})
    return project


def contents(ledger: Ledger) -> list[object]:
    trials = ledger.trials()
    curves = [ledger.curve(trial.id) for trial in trials]
    sweeps = [(sweep.id, dict(sweep.spec), dict(sweep.conclusion or {})) for sweep in ledger.sweeps()]
    return [[*map(repr, trials)], [trial.trial.experiment for trial in trials], curves, ledger.tried(), sweeps,
            ledger.decisions(), ledger.generations()]  # fmt: skip


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def events_in(file: Path) -> list[object] | None:
    """What the lines say; None where one is no JSON."""
    try:
        return [json.loads(line) for line in file.read_bytes().splitlines()]
    except ValueError:
        return None


def flipped(whole: Path, folder: Path, name: str, seed: int, alone: bool) -> str:
    """What became of a ledger of which one bit of one file is another: unchanged, mended, refused or named; or "the
    same", where it says what it said: of a time's sixteenth decimal digit, several stand for one number."""
    with Ledger.open(whole) as ledger:
        expected = contents(ledger)
    shutil.copytree(whole / ".foundry", folder / ".foundry")
    file = folder / ".foundry" / name
    if alone:
        other = "events.jsonl" if name == "ledger.db" else "ledger.db"
        (file.parent / other).unlink()
    flip(file, random.Random(seed).randrange(8 * file.stat().st_size))
    is_same = name == "events.jsonl" and events_in(file) == events_in(whole / ".foundry" / name)
    said: list[str] = []
    try:
        with Ledger.open(folder, note=said.append) as ledger:
            found = contents(ledger)
    except FoundryError as refusal:
        return "refused" if re.search(r"ledger\.db|events\.jsonl", refusal.message) else "refused without a name"
    if found == expected:
        with Ledger.open(folder, note=said.append) as ledger:
            assert contents(ledger) == expected
        return "mended" if said else "the same" if is_same else "unchanged"
    assert alone, f"silently different, or a good event lost: {name}, seed {seed}: {said}"
    assert any(re.search(r"event \d+ is damaged", each) for each in said), f"{name}, seed {seed}: {said}"
    return "named"


@pytest.mark.parametrize("flips", [15, pytest.param(FLIPS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["events.jsonl", "ledger.db"])
def test_a_flipped_bit_in_one_copy_changes_nothing(whole, tmp_path, name, flips):
    became = [flipped(whole, tmp_path / str(seed), name, seed, alone=False) for seed in range(flips)]
    print(name, {each: became.count(each) for each in sorted(set(became))})
    if name == "events.jsonl":
        assert {*became} - {"the same"} == {"mended"}
    else:
        assert became.count("refused") <= flips * 0.01  # the version in the header: another Foundry may have written it


@pytest.mark.slow
@pytest.mark.parametrize("name", ["events.jsonl", "ledger.db"])
def test_a_flipped_bit_in_the_only_copy_is_never_silent(whole, tmp_path, name):
    became = [flipped(whole, tmp_path / str(seed), name, seed, alone=True) for seed in range(FLIPS)]
    print(name, {each: became.count(each) for each in sorted(set(became))})
    # By its name, where no event can be found any more: SQLite's header and the tables' definitions, three pages.
    size = (whole / ".foundry" / name).stat().st_size
    assert became.count("refused") <= (FLIPS * 3 * 4096 / size if name == "ledger.db" else 0)


def test_what_differs_in_a_large_ledger_is_found_by_a_check(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("foundry.lab.ledger.copies.SMALL", 0)
    shutil.copytree(whole / ".foundry", tmp_path / ".foundry")
    with Ledger.open(whole) as ledger:
        expected = contents(ledger)
    with sqlite3.connect(tmp_path / ".foundry" / "ledger.db") as db:
        db.execute("UPDATE trial SET seed = seed + 1")
        db.execute("UPDATE event SET data = replace(data, 'norm', 'nurm')")
    db.close()
    with Ledger.open(tmp_path) as ledger:
        assert contents(ledger) != expected
        said = ledger.check()
        assert contents(ledger) == expected
        assert ledger.check() == []
    assert len(said) >= 3
    assert all("ledger.db: event" in each and "whole in the other copy" in each for each in said)


def test_a_line_that_stands_twice_is_dropped(whole, tmp_path):
    shutil.copytree(whole / ".foundry", tmp_path / ".foundry")
    events = tmp_path / ".foundry" / "events.jsonl"
    content = events.read_bytes()
    events.write_bytes(content + content.splitlines(keepends=True)[-1])
    said: list[str] = []
    Ledger.open(tmp_path, note=said.append).close()
    assert "stands there a second time" in said[0]
    assert events.read_bytes() == content


def test_who_has_a_ledger_open_goes_on_when_another_mends_it(whole, tmp_path):
    shutil.copytree(whole / ".foundry", tmp_path / ".foundry")
    with Ledger.open(tmp_path) as first:
        expected = contents(first)
        with sqlite3.connect(tmp_path / ".foundry" / "ledger.db") as db:
            db.execute("UPDATE event SET data = replace(data, 'norm', 'nurm')")
            db.execute("UPDATE wanted SET arm = 'nurm 1'")
        db.close()
        said: list[str] = []
        with Ledger.open(tmp_path, note=said.append) as second:
            assert contents(second) == contents(first) == expected
            sweep = first.start_sweep({"kind": "sweep", "generation": 0, "n": "after"})
            assert second.sweep(sweep) is not None
        assert said
    quiet: list[str] = []
    with Ledger.open(tmp_path, note=quiet.append) as ledger:
        assert ledger.sweep(sweep) is not None
    assert quiet == []


def test_two_copies_that_went_on_without_each_other_are_refused(whole, tmp_path):
    for name in ("one", "other"):
        shutil.copytree(whole / ".foundry", tmp_path / name / ".foundry")
        with Ledger.open(tmp_path / name) as ledger:
            ledger.start_sweep({"kind": "sweep", "generation": 0, "n": name})
    shutil.copy(tmp_path / "one" / ".foundry" / "events.jsonl", tmp_path / "other" / ".foundry" / "events.jsonl")
    with pytest.raises(InvalidData, match=r"are of one ledger, and differ from event \d+ on"):
        Ledger.open(tmp_path / "other")


def test_a_journal_that_is_no_file_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    with Ledger.open(tmp_path):
        pass
    journal = tmp_path / ".foundry" / "events.jsonl"
    journal.unlink(missing_ok=True)
    os.mkfifo(journal)
    with pytest.raises(OSError, match="is not a regular file"), Ledger.open(tmp_path):
        pass
