"""SIGKILL of a sweep's driver and its workers at any instant, then the same sweep again: no finished trial is lost or
trained twice, and the ledger, the decision and the new baseline are those of a sweep that nobody disturbed.

How the processes are started, and how they come to die in the middle of a write, is in `sweep_processes`.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from tests.doses import not_in_small_doses
from tests.sweep_processes import command, drive, look, make_project, processes, start

from foundry.lab.baseline import current_baseline
from foundry.lab.ledger import Ledger
from foundry.lab.ledger.schema import VOLATILE

LIFE_SECONDS = 1.0
"""The longest time from the first event to a kill. A trial takes about as long."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes by their folder in /proc")

# ---- What they leave behind


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def is_promoted(project: Path) -> bool:
    """Whether the sweep has done all that it can: to ask again is a question about another baseline."""
    with Ledger.open(project) as ledger:
        newest = ledger.baseline()
    return newest is not None and newest.kind == "promoted"


def end(project: Path) -> None:
    """The sweep again, until it is done."""
    if not is_promoted(project):
        child = start(drive, project)
        child.join()
        assert child.exitcode == 0, (project / "failure.txt").read_text()
    with Ledger.open(project) as ledger:
        current_baseline(ledger, project)
    while processes(project):  # a worker of a killed driver finishes its step, and saves
        time.sleep(0.05)


def tables(project: Path) -> dict[str, list[dict]]:
    """The database, all but what belongs to living processes."""
    db = sqlite3.connect(project / ".foundry" / "ledger.db")
    db.row_factory = sqlite3.Row
    names = [row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {name: list(map(dict, db.execute(f"SELECT * FROM {name}"))) for name in names if name not in VOLATILE}
    db.close()
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


def outcome(project: Path) -> dict[str, list[dict]]:
    """What the sweep came to: the tables less clocks, and less how often and by whom something was tried."""
    clocks = {"seq", "time", "created", "ended", "file_hash", "attempt", "attempts", "losses"}
    speeds = {"seconds", "training_seconds", "tokens_per_second", "elapsed"}

    def plain(value):
        if isinstance(value, str) and value[:1] in ("{", "["):
            return plain(json.loads(value))
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items() if key not in speeds}
        if isinstance(value, list):
            return [plain(each) for each in value]
        return value

    found = {name: rows for name, rows in tables(project).items() if name not in ("event", "attempt")}
    return {
        name: sorted(({key: plain(row[key]) for key in row if key not in clocks} for row in rows), key=repr)
        for name, rows in found.items()
    }


def baseline_file(project: Path) -> str:
    """experiments/baseline.yaml, less dates."""
    return re.sub(r"\d{4}-\d\d-\d\d", "DATE", (project / "experiments" / "baseline.yaml").read_text())


def assert_same(project: Path, reference: Path) -> None:
    """The sweep is over, and all that it left behind is as if nothing had happened."""
    ours, theirs = outcome(project), outcome(reference)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == theirs[name], name
    assert baseline_file(project) == baseline_file(reference)
    assert sorted(path.name for path in (project / "experiments").iterdir()) == ["baseline.yaml"]

    rows = tables(project)
    finished: set[str] = set()
    for event in sorted(rows["event"], key=lambda row: row["seq"]):
        if event["kind"] in ("trial_claimed", "trial_finished"):
            trial = json.loads(event["data"])["trial"]
            assert trial not in finished, "it is trained again"
            finished |= {trial} if event["kind"] == "trial_finished" else set()
    assert finished == {row["id"] for row in rows["trial"]}
    assert {row["reason"] for row in rows["attempt"]} <= {"", "its process is gone", "given back"}
    for row in rows["trial"]:
        assert not (project / row["run"] / "checkpoints").exists()
    for log in (project / ".foundry").glob("*.log"):
        assert "Traceback" not in log.read_text()
        assert "in use" not in log.read_text()
    assert processes(project) == []

    rebuilt = project / "rebuilt"
    (rebuilt / ".foundry").mkdir(parents=True)
    shutil.copy(project / ".foundry" / "events.jsonl", rebuilt / ".foundry")
    Ledger.open(rebuilt).close()
    assert tables(rebuilt) == rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def undisturbed(folder) -> Path:
    project = make_project(folder / "undisturbed")
    end(project)
    confirmed = [row for row in outcome(project)["wanted"] if row["role"] == "confirm"]
    assert len(confirmed) >= 8  # else there is little to disturb
    assert is_promoted(project)
    return project


# ---- The tests


def kill_at_random(project: Path, undisturbed: Path, kills: int, seed: int) -> None:
    """The driver, one worker, or all of them, again and again. A sweep that ends meanwhile is compared, and begun
    anew."""
    draw, killed, lost = random.Random(seed), Counter(), 0
    driver, events = start(drive, make_project(project)), project / ".foundry" / "events.jsonl"
    while killed.total() < kills:
        if not driver.is_alive():
            assert driver.exitcode in (0, -signal.SIGKILL), (project / "failure.txt").read_text()
            if is_promoted(project):
                lost += conclude(project, undisturbed)
                make_project(project)
            driver = start(drive, project)
        if draw.random() < 0.8:
            before = size(events)
            while driver.is_alive() and size(events) <= before:
                time.sleep(0.005)
        driver.join(draw.uniform(0, LIFE_SECONDS))
        workers = sorted(set(processes(project)) - {driver.pid})
        whom = ("driver", "worker", "all")[killed.total() % 3]
        if not driver.is_alive() or (whom == "worker" and not workers):
            continue
        for victim in {"driver": [driver.pid], "worker": workers[:1], "all": [driver.pid, *workers]}[whom]:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if whom != "worker":
            driver.join()
        killed[whom] += 1
    driver.join()
    assert driver.exitcode in (0, -signal.SIGKILL), (project / "failure.txt").read_text()
    lost += conclude(project, undisturbed)
    assert len(killed) == 3
    assert lost >= kills / 4  # else the kills met nobody who trained


def conclude(project: Path, undisturbed: Path) -> int:
    """Let the sweep end, and compare it. How many attempts at a trial its kills had ended."""
    end(project)
    assert_same(project, undisturbed)
    return sum(row["reason"] == "its process is gone" for row in tables(project)["attempt"])


def test_twelve_kills_at_random_instants(folder, undisturbed):
    kill_at_random(folder / "killed", undisturbed, 12, seed=1)


@pytest.mark.slow
@not_in_small_doses
@pytest.mark.timeout(3600)  # one to three seconds a kill
def test_two_hundred_kills(folder, undisturbed):
    seed = int(time.time())
    print("seed", seed)
    kill_at_random(folder / "killed-many", undisturbed, 200, seed)


EVENTS = (
    "sweep_started", "config_recorded", "trials_requested", "trial_claimed", "claim_lost", "trial_finished",
    "noise_measured", "decided", "evidence_grew", "sweep_finished", "baseline_set manual", "baseline_set promoted",
    "baseline_rendered",
)  # fmt: skip
INSTANTS = [
    *(f"before the commit of {event}" for event in EVENTS),
    *(f"in the line of {event}" for event in ("trial_claimed", "trial_finished", "decided", "baseline_set promoted")),
    "in the file",
    "after the file",
    "at an import",
]


def test_kills_in_the_middle_of_every_write(folder, undisturbed):
    """Of each kind of event before its commit, of some with half of their line in the journal, and around the
    baseline's file. Whoever writes it there dies there, be it the driver or a worker. And a worker is asked to leave
    while it imports a plugin, which is no fault of the plugin's, nor of the trial's."""
    project = make_project(folder / "killed-while-writing")
    (project / "deaths").mkdir()
    for instant in INSTANTS:
        (project / "deaths" / instant).touch()
    for _ in INSTANTS:
        child = start(look if (project / ".foundry").exists() and is_promoted(project) else drive, project)
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL, (project / "failure.txt").read_text()
    assert list((project / "deaths").iterdir()) == []
    conclude(project, undisturbed)


def test_signals_stop_a_sweep_and_the_same_command_goes_on(folder, undisturbed):
    project = make_project(folder / "stopped")
    events = project / ".foundry" / "events.jsonl"

    def finished() -> int:
        return events.read_text().count("trial_finished") if events.exists() else 0

    for number in (signal.SIGTERM, signal.SIGINT):
        before, driver = finished(), start(command, project, 5)
        while driver.is_alive() and finished() == before:
            time.sleep(0.05)
        os.kill(driver.pid, number)
        driver.join()
        assert driver.exitcode == 75
        assert processes(project) == []
        assert {row["status"] for row in tables(project)["trial"]} == {"finished", "queued"}
    conclude(project, undisturbed)
