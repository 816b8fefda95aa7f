"""A worker that is asked to stop, by whatever signal, saves what it trains and leaves.

A worker that is stopped - by SIGSTOP, a debugger, a frozen container - keeps the lock of its run when its lease has
ended. Whoever gets its trial waits; the worker notices when it goes on, or is ended by who started it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.doses import dose
from tests.sweep_processes import make_project, start, work

from foundry.cli.__main__ import main
from foundry.core import load_experiment, train
from foundry.core.config import from_plain
from foundry.core.system.signals import RESERVED
from foundry.lab.ledger import Ledger, Trial
from foundry.lab.trials.executors import local
from foundry.lab.trials.fingerprint import Setting, make_trial

STEPS = 400


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    baseline = make_project(tmp_path / "project") / "experiments" / "baseline.yaml"
    baseline.write_text(baseline.read_text().replace("save_interval: 6", "save_interval: 50"))
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("FOUNDRY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "project"


def wait_for(condition, seconds: float = 120):
    """What `condition` returns, as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


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


def worker(project: Path, name: str, sweep: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "foundry.lab.trials.worker", str(project), "--name", name, "--sweep", sweep]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


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
        first = worker(project, "first", sweep)
        wait_for(lambda: trains(project))
        first.send_signal(signal.SIGSTOP)
        let_lease_end(project)
        second = worker(project, "second", sweep)
        for said in second.stderr:
            if "waits for" in said:
                break
        assert f"another process ({first.pid}) is training" in said
        assert attempts(project) == [("lost", "first"), ("running", "second")]
        first.send_signal(signal.SIGCONT)
        wait_for(lambda: ledger.trial(trial.id).status == "finished")
        assert attempts(project) == [("lost", "first"), ("finished", "second")]
        row = ledger.trial(trial.id)
        ledger.finish_sweep(sweep, {})
    assert [first.wait(), second.wait()] == [0, 0]
    assert "Traceback" not in first.stderr.read() + second.stderr.read()
    alone = train(from_plain(row.trial.experiment, project=project), project / "alone")
    assert row.result["val_loss"] == alone["val_loss"]


def test_a_sweep_ends_a_worker_that_does_not_answer_and_goes_on(project, monkeypatch, capsys):
    monkeypatch.setattr(local, "SILENT_SECONDS", 0.5)
    stopped = []

    def stop() -> None:
        with suppress(AssertionError):
            wait_for(lambda: trains(project))
            with sqlite3.connect(project / ".foundry" / "ledger.db", timeout=30) as db:
                ((process,),) = db.execute("SELECT process FROM attempt WHERE status = 'running'")
            os.kill(json.loads(process)["pid"], signal.SIGSTOP)
            stopped.append(let_lease_end(project)["pid"])

    thread = threading.Thread(target=stop)
    thread.start()
    code = main(["noise", "--seeds", "2", "--budget", f"{STEPS} steps", "--json"])
    thread.join()
    said = capsys.readouterr()
    assert code == 0, said.err
    assert stopped
    assert "worker-0 does not answer" in said.out
    assert [status for status, _ in attempts(project)] == ["lost", "finished", "finished"]
    assert not Path(f"/proc/{stopped[0]}").exists()
