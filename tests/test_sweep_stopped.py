"""A worker that is asked to stop, by whatever signal, saves what it trains and leaves.

A worker that is stopped - by SIGSTOP, a debugger, a frozen container - keeps the lock of its run when its lease has
ended. Whoever gets its trial waits; the worker notices when it goes on, or is ended by who started it."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.doses import dose
from tests.processes import wait_for
from tests.project import working_in
from tests.sweep_processes import BASELINE, command, make_project, serve, start, work

from foundry.core import load_experiment, train
from foundry.core.config import from_plain
from foundry.core.system.signals import RESERVED
from foundry.lab.ledger import Ledger, Trial
from foundry.lab.trials.executors import local
from foundry.lab.trials.fingerprint import make_trial
from foundry.lab.trials.setting import Setting

STEPS = 400


@pytest.fixture
def project(tmp_path) -> Iterator[Path]:
    baseline = BASELINE.replace("save_interval: 6", "save_interval: 50")
    with working_in(make_project(tmp_path / "project", baseline), cache=tmp_path / "cache") as folder:
        yield folder


def trains(project: Path) -> Path | None:
    """A run of the sweep that is in its first half."""
    for file in (project / ".foundry" / "trials").glob("*/metrics.jsonl"):
        if not (file.parent / "result.json").exists() and 0 < len(file.read_text().splitlines()) < STEPS / 2:
            return file.parent
    return None


def let_lease_end(project: Path) -> dict:
    """As if the only running attempt had been silent for an hour; the process that makes it."""
    with sqlite3.connect(project / ".foundry" / "ledger.db", timeout=30) as db:
        ((process,),) = db.execute("SELECT process FROM attempt WHERE status = 'running'")
        db.execute("UPDATE heartbeat SET clock = clock - 3600, wall = wall - 3600")
    return json.loads(process)


def attempts(project: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(project / ".foundry" / "ledger.db", timeout=30) as db:
        return db.execute("SELECT status, worker FROM attempt ORDER BY id").fetchall()


def ask_for(ledger: Ledger, *seeds: int) -> tuple[str, list[Trial]]:
    """A sweep that wants the baseline with some seeds."""
    experiment = load_experiment(None, [f"training.max_iters={STEPS}", "checkpoints.save_interval=0"])
    trials = [make_trial(experiment, seed, Setting.of(experiment, 1)) for seed in seeds]
    sweep = ledger.start_sweep({"kind": "sweep"})
    ledger.request(sweep, [(trial, order, "screen", "baseline", "1") for order, trial in enumerate(trials)])
    return sweep, trials


@pytest.mark.parametrize("number", dose([pytest.param(number, id=number.name) for number in RESERVED], everyday=1))
def test_a_worker_saves_on_every_signal_that_asks_for_it(project, number):
    with Ledger.open(project) as ledger:
        sweep, (trial,) = ask_for(ledger, 1)
        child = start(work, project, sweep)
        run = wait_for(lambda: trains(project))
        os.kill(child.pid, number)
        child.join()
        assert child.exitcode == 0
        assert attempts(project) == [("lost", "worker-0")]
        assert ledger.trial(trial.id).status == "queued"
    assert list((run / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(("instant", "status"), [("claimed", "queued"), ("trained", "finished")])
def test_a_signal_just_before_or_after_a_training_ends_its_worker_all_the_same(project, instant, status):
    with Ledger.open(project) as ledger:
        sweep, trials = ask_for(ledger, 1, 2)
        child = start(work, project, sweep, instant)
        child.join()
        assert child.exitcode == 0
        assert [ledger.trial(trial.id).status for trial in trials] == [status, "queued"]


def test_who_gets_the_trial_of_a_stopped_worker_waits_until_it_has_left(project):
    experiment = load_experiment(None, [f"training.max_iters={STEPS}"])
    trial = make_trial(experiment, 1, Setting.of(experiment, 1))
    with Ledger.open(project) as ledger:
        sweep = ledger.start_sweep({"kind": "sweep"})
        ledger.request(sweep, [(trial, 0, "screen", "baseline", "1")])
        first = start(serve, project, "first", sweep, "first.log")
        wait_for(lambda: trains(project))
        os.kill(first.pid, signal.SIGSTOP)
        let_lease_end(project)
        second, log = start(serve, project, "second", sweep, "second.log"), project / "second.log"
        (waits,) = wait_for(lambda: log.exists() and re.findall(".*waits for.*\n", log.read_text()))
        assert f"another process ({first.pid}) is training" in waits
        assert attempts(project) == [("lost", "first"), ("running", "second")]
        os.kill(first.pid, signal.SIGCONT)
        wait_for(lambda: ledger.trial(trial.id).status == "finished")
        assert attempts(project) == [("lost", "first"), ("finished", "second")]
        row = ledger.trial(trial.id)
        ledger.finish_sweep(sweep, {})
    for worker in (first, second):
        worker.join()
        assert worker.exitcode == 0
    assert "Traceback" not in (project / "first.log").read_text() + log.read_text()
    alone = train(from_plain(row.trial.experiment, project=project), project / "alone")
    assert row.result["val_loss"] == alone["val_loss"]


def impatient(project: Path, *arguments: str) -> None:
    local.SILENT_SECONDS = 0.5
    command(project, 3, arguments, "said.txt")


def test_a_sweep_ends_a_worker_that_does_not_answer_and_goes_on(project):
    driver = start(impatient, project, "noise", "--seeds", "2", "--budget", f"{STEPS} steps", "--json")
    wait_for(lambda: trains(project))
    with sqlite3.connect(project / ".foundry" / "ledger.db", timeout=30) as db:
        ((process,),) = db.execute("SELECT process FROM attempt WHERE status = 'running'")
    stopped = json.loads(process)["pid"]
    os.kill(stopped, signal.SIGSTOP)
    assert let_lease_end(project)["pid"] == stopped
    driver.join()
    said = (project / "said.txt").read_text()
    assert driver.exitcode == 0, said
    assert "worker-0 does not answer" in said
    assert [status for status, _ in attempts(project)] == ["lost", "finished", "finished"]
    assert not Path(f"/proc/{stopped}").exists()
