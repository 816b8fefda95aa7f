"""A worker and its claim: what it refuses to train, and how it shows that it is there. Nothing is trained here."""

from __future__ import annotations

import threading
from dataclasses import replace
from unittest.mock import Mock

import pytest
from tests.project import write_project

from foundry.core.code import code_fingerprint
from foundry.core.config import load_experiment
from foundry.core.contracts import EnvironmentFailure, Params
from foundry.core.contracts.execution import Site
from foundry.core.system.machine import out_of
from foundry.lab.decide.request import Failure, Request
from foundry.lab.ledger import Ledger, LostClaim, Trial
from foundry.lab.trials import heartbeat, time_limit
from foundry.lab.trials.driver import Driver
from foundry.lab.trials.executors.inline import Inline
from foundry.lab.trials.executors.site import WORKER, LedgerSite
from foundry.lab.trials.log import thinned
from foundry.lab.trials.setting import Setting
from foundry.lab.trials.worker import Worker, _costs

BASELINE = """\
model_args: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 16}
data: {dataset: stdlib, tokenizer: byte}
training: {max_iters: 4, batch_size: 2}
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(write_project(tmp_path, {"experiments/baseline.yaml": BASELINE}))


@pytest.fixture
def queued(ledger):
    """Queues one trial of the baseline, as it is now or changed, and returns its id and the sweep's."""

    def queue(**changed) -> tuple[str, str]:
        experiment = load_experiment()
        code = code_fingerprint(experiment)
        trial = replace(Trial(experiment.identity, 1, code, "data", experiment.plain()), **changed)
        sweep = ledger.start_sweep({"kind": "sweep", "arms": ["a"]})
        ledger.request(sweep, [(trial, 0, "screen", "a", "1")])
        return sweep, trial.id

    return queue


def test_trials_are_trained_in_the_order_in_which_they_are_asked_for(ledger, monkeypatch):
    """Batch after batch, whatever other sweeps wait for."""
    orders, request = [], ledger.request

    def keep(sweep, wanted, **more):
        orders.extend(order for _, order, *_ in wanted)
        request(sweep, wanted, **more)

    def work(sweep, **_):
        while attempt := ledger.claim("w", sweep):
            metrics = {"val_loss": 2.0 + attempt.trial.seed} if attempt.trial.seed != 9 else {}
            ledger.finish(attempt, {"metrics": metrics})

    monkeypatch.setattr(ledger, "request", keep)
    workload = Mock(of=lambda request: Trial(request.arm, request.seed, "code", "data", {}))
    about = (ledger, ledger.start_sweep({"kind": "sweep"}), workload, "val_loss", Setting("cpu", "fp32", 1))
    driver = Driver(*about, Mock(work=work), Mock())
    for seeds in ((5, 6), (7, 8, 9)):
        asked = [Request("a", seed, "screen") for seed in seeds]
        scores = {each: 2.0 + each.seed if each.seed != 9 else Failure("it has no val_loss") for each in asked}
        assert driver.answers(asked) == scores
    assert orders == [0, 1, 2, 3, 4]


def test_a_trial_whose_code_has_changed_since_is_not_trained(ledger, queued, monkeypatch):
    trained = []
    monkeypatch.setattr("foundry.core.training.train", lambda *_, **__: trained.append(1))
    sweep, trial = queued(code="of last week")
    assert Worker(ledger, "w").work(sweep)
    row = ledger.trial(trial)
    assert (row.status, trained) == ("failed", [])
    assert "the code of this trial has changed" in row.reason
    assert not Worker(ledger, "w").work(sweep)


def test_a_worker_gives_signs_while_it_trains(ledger, queued, monkeypatch):
    """With the lease over, so that only a sign between claim and result keeps the trial its own."""
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.01)
    renewed = threading.Event()
    renew = Ledger.renew

    def told(self, attempt):
        held = renew(self, attempt)
        renewed.set()
        return held

    monkeypatch.setattr(Ledger, "renew", told)
    worker = Worker(ledger, "w")
    beats = []

    def result(attempt, watch):
        before = ledger.holders()[attempt.trial.id].beat
        while (after := ledger.holders()[attempt.trial.id].beat) == before:
            assert renewed.wait(60)
            renewed.clear()
        beats.append((before, after))
        return {"metrics": {"val_loss": 2.0}}, []

    worker.result = result
    sweep, trial = queued()
    assert worker.work(sweep)
    assert ledger.trial(trial).metric("val_loss") == 2.0
    [(before, after)] = beats
    assert after.clock > before.clock


@pytest.mark.parametrize("end", ["finish", "fail"])
def test_a_result_that_comes_after_another_has_the_trial_ends_no_worker(ledger, queued, monkeypatch, end):
    def lost(ledger, attempt, *_):
        raise LostClaim(attempt)

    def result(attempt, watch):
        if end == "fail":
            raise ZeroDivisionError
        return {"metrics": {"val_loss": 2.0}}, []

    monkeypatch.setattr(Ledger, end, lost)
    worker = Worker(ledger, "w")
    worker.result = result
    sweep, _ = queued()
    assert worker.work(sweep)
    assert not worker.work(sweep)


def test_the_process_that_trains_itself_tells_why_a_trial_waits(ledger, tmp_path):
    notes = []
    inline = Inline(Params(), LedgerSite(tmp_path, 1, WORKER, note=notes.append, ledger=ledger))
    inline.told(attempt="a", trial="t")
    inline.told(waits="waits for the lock of its run")
    assert notes == ["the trial waits for the lock of its run"]


def test_the_command_of_a_worker_says_all_that_it_must_know(tmp_path):
    asked = ["--sweep", "s", "--name", "here", "--trial-seconds", "2.5"]
    assert Site(tmp_path, 1, WORKER, 2.5).worker("s", "here")[-7:] == [str(tmp_path), *asked]
    assert Site(tmp_path, 1, WORKER).worker("s")[-3:] == [str(tmp_path), "--sweep", "s"]


def test_a_driver_gives_signs_of_the_sweeps_that_it_drives(ledger, queued):
    sweep, _ = queued()
    [before] = ledger.drivers(sweep)
    ledger.renew_sweeps()
    [after] = ledger.drivers(sweep)
    assert after.process == before.process
    assert after.beat.clock > before.beat.clock


def test_a_trial_has_its_time_from_the_first_step_and_more_to_be_built():
    for seconds, to_build in ((2.0, time_limit.BUILD_SECONDS), (1000.0, 1000.0)):
        watch = time_limit.Watch(None, None, seconds, None)
        watch.building_begins()
        assert watch.complaint == f"timeout: it took longer than {to_build:g} s to be built"
        watch.training_begins()
        assert watch.complaint == f"timeout: it took longer than {seconds:g} s"
    unlimited = time_limit.Watch(None, None, None, None)
    unlimited.training_begins()
    assert unlimited.complaint == ""


def test_a_long_curve_keeps_every_validation_and_a_few_of_the_others():
    rows = [
        {"step": step, "train_loss": 3.0} | ({"val_loss": 3.0} if step % 77 == 0 else {}) for step in range(1, 1001)
    ]
    kept = thinned(rows)
    assert [row["step"] for row in kept if "val_loss" in row] == list(range(77, 1001, 77))
    others = [row["step"] for row in kept if "val_loss" not in row]
    assert others == [step for step in range(5, 1001, 5) if step % 77]
    assert thinned(rows[:200]) == rows[:200]


def test_an_arm_beyond_the_memory_fails_itself_and_a_full_disk_is_no_arms_fault(monkeypatch, tmp_path):
    for error, kind in (
        (out_of(1e9, 2e9, "the arm", "take fewer parameters"), "PluginError"),
        (EnvironmentFailure("cannot write the cache", "free some space"), "EnvironmentFailure"),
    ):
        monkeypatch.setattr("foundry.lab.trials.worker.Costs.count_here", Mock(side_effect=error))
        monkeypatch.setattr("foundry.lab.trials.worker.from_plain", Mock())
        assert _costs({}, tmp_path)["kind"] == kind
