"""Whoever only looks at a project needs no right to write in it: another's, or one on a medium that is mounted so."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.refusing_system import LACKS, STRANGER, System, give
from tests.test_what_a_system_lacks import make_project

from foundry.lab.ledger import Ledger, Trial

LOOKS = (
    "runs",
    "runs --json",
    "query",
    "query what=trial --json",
    "why",
    "lineage",
    "report --out {own}/page.html",
    "report --json",
    "config show",
    "analyze",
)
LOOKS_AT_A_RUN = ("generate runs/one --prompt th --max-tokens 2", "export runs/one {own}/exported")


@pytest.fixture(scope="module")
def project(system, tmp_path_factory) -> Path:
    """With a ledger of one generation."""
    project = make_project(tmp_path_factory.mktemp("project") / "project")
    change(system, project, "sweep lr 1e-2 --dry-run")
    return project


def change(system: System, project: Path, line: str) -> None:
    done = system.foundry(LACKS["nothing"], project, *line.split(), FOUNDRY_CACHE=str(project / "cache"))
    assert done.code == 0, done


def read_only(project: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of it that nobody may write, and a folder that the stranger may."""
    copy, own = folder / "copy", folder / "own"
    shutil.copytree(project, copy)
    own.mkdir()
    if os.getuid() == 0:
        give(own, STRANGER)
    return copy, own


def close(project: Path) -> None:
    for path in (*project.rglob("*"), project):
        path.chmod(0o555 if path.is_dir() else 0o444)


def look(system: System, project: Path, own: Path, line: str):
    environment = {"FOUNDRY_CACHE": str(own / "cache"), "TMPDIR": str(own)}
    arguments = line.format(own=own).split()
    return system.foundry(LACKS["nothing"], project, *arguments, owner=False, **environment)


def test_every_command_that_looks_works_where_nothing_can_be_written(system, project, tmp_path):
    copy, own = read_only(project, tmp_path)
    close(copy)
    look_all(system, copy, own, LOOKS)
    assert (own / "page.html").exists()
    done = look(system, copy, own, "rollback")
    assert done.code != 0
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_a_run_is_used_where_nothing_can_be_written(system, project, tmp_path):
    change(system, project, "train --out runs/one --set training.max_iters=2")
    copy, own = read_only(project, tmp_path)
    close(copy)
    look_all(system, copy, own, LOOKS_AT_A_RUN)


def look_all(system: System, project: Path, own: Path, lines: tuple[str, ...]) -> None:
    before = sorted(project.rglob("*"))
    for line in lines:
        done = look(system, project, own, line)
        assert done.code == 0, (line, done)
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("state", ["a log without its index", "no database", "an older version", "a damaged event"])
def test_a_ledger_is_read_whatever_state_it_was_left_in(system, project, tmp_path, state):
    copy, own = read_only(project, tmp_path)
    folder = copy / ".foundry"
    with Ledger.open(copy) as ledger:
        sweep = ledger.start_sweep({"kind": "sweep", "generation": 0})
        ledger.request(sweep, [(Trial("i", 7, "code", "data", {}), 0, "screen", "norm layernorm", "1")])
        if state == "a log without its index":
            for name in ("ledger.db", "ledger.db-wal"):
                shutil.copy(folder / name, own / name)
    if state == "a log without its index":
        for name in ("ledger.db", "ledger.db-wal"):
            shutil.move(own / name, folder / name)
    elif state == "no database":
        (folder / "ledger.db").unlink()
    else:
        with sqlite3.connect(folder / "ledger.db") as db:
            if state == "an older version":
                db.execute("PRAGMA user_version = 3")
            else:
                db.execute("UPDATE event SET data = replace(data, 'norm', 'nurm')")
                db.execute("UPDATE wanted SET arm = 'nurm layernorm'")
        db.close()
    close(copy)
    done = look(system, copy, own, "query what=trial")
    assert done.code == 0, done
    assert "norm layernorm" in done.out
    assert ("is damaged" in done.err) == (state == "a damaged event")
