"""The ledger between processes that race, die and freeze. Real processes, forked, since they need nothing but it."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.doses import SMALL

from foundry.lab.ledger import Generation, Ledger, LostClaim, StaleBaseline, Trial

processes = multiprocessing.get_context("fork")

GENERATION = Generation(0, "identity", {}, "manual", "imported", None, None, "hash", 0.0)


def prepare(project: Path, trials: int) -> str:
    with Ledger.open(project) as ledger:
        sweep = ledger.start_sweep({"kind": "sweep"})
        all = [Trial("identity", seed, "code", "data", {}) for seed in range(trials)]
        ledger.request(sweep, [(trial, order, "screen", "arm", "1") for order, trial in enumerate(all)])
    return sweep


def start(target, *arguments):
    child = processes.Process(target=target, args=arguments, daemon=True)
    child.start()
    return child


# --------------------------------------------------------------------------------------------------------------------
# Races


def claim_and_stay(project: Path, go, answers, home) -> None:
    try:
        with Ledger.open(project) as ledger:
            go.wait()
            claimed = []
            while attempt := ledger.claim(f"worker {os.getpid()}"):
                claimed.append(attempt.trial.seed)
        answers.put(claimed)
        home.wait()  # claims of a process that is gone would be taken over
    except BaseException as error:
        answers.put(repr(error))


def test_32_claimers_never_meet_a_lock_and_never_share_a_trial(tmp_path):
    prepare(tmp_path, trials=160)
    go, home, answers = processes.Event(), processes.Event(), processes.Queue()
    children = [start(claim_and_stay, tmp_path, go, answers, home) for _ in range(32)]
    go.set()
    claimed = [answers.get(timeout=120) for _ in children]
    home.set()
    assert [answer for answer in claimed if isinstance(answer, str)] == []
    assert sorted(seed for each in claimed for seed in each) == list(range(160))


def promote_50_times(project: Path, go, answers) -> None:
    won = 0
    try:
        with Ledger.open(project) as ledger:
            go.wait()
            for _ in range(50):
                expected = ledger.baseline().number
                with suppress(StaleBaseline):
                    made = ledger.promote(expected, replace(GENERATION, summary=str(os.getpid())))
                    assert made.previous == expected
                    won += 1
        answers.put((os.getpid(), won))
    except BaseException as error:
        answers.put((os.getpid(), repr(error)))


def test_every_racing_promotion_that_won_is_a_generation(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        ledger.promote(None, GENERATION)
    go, answers = processes.Event(), processes.Queue()
    children = [start(promote_50_times, tmp_path, go, answers) for _ in range(8)]
    go.set()
    wins = dict(answers.get(timeout=120) for _ in children)
    with Ledger.open(tmp_path) as ledger:
        _, *won = ledger.generations()
    assert len(won) == sum(wins.values())
    assert {pid: [each.summary for each in won].count(str(pid)) for pid in wins} == wins
    assert [each.number for each in won] == list(range(1, len(won) + 1))
    assert [each.previous for each in won] == list(range(len(won)))
    assert len(won) < 400  # or nobody raced


def test_processes_that_open_a_new_project_at_once_make_one_ledger(tmp_path):
    go, answers = processes.Event(), processes.Queue()
    children = [start(open_and_start, tmp_path, n, go, answers) for n in range(8)]
    go.set()
    started = [answers.get(timeout=60) for _ in children]
    with Ledger.open(tmp_path) as ledger:
        assert sorted(sweep.id for sweep in ledger.sweeps()) == sorted(started)
    lines = (tmp_path / ".foundry" / "events.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, 10))


def open_and_start(project: Path, n: int, go, answers) -> None:
    go.wait()
    try:
        with Ledger.open(project) as ledger:
            answers.put(ledger.start_sweep({"kind": "sweep", "n": n}))
    except BaseException as error:
        answers.put(repr(error))


def test_a_ledger_goes_on_working_after_a_fork(tmp_path):
    prepare(tmp_path, trials=2)
    with Ledger.open(tmp_path) as ledger:
        first = ledger.claim("parent")
        answers = processes.Queue()

        def child() -> None:
            second = ledger.claim("child")
            ledger.finish(second, {"metrics": {}})
            answers.put(second.trial.seed)

        forked = processes.Process(target=child)
        forked.start()
        assert answers.get(timeout=60) == 1
        forked.join()
        ledger.finish(first, {"metrics": {}})
        assert len(ledger.trials(status="finished")) == 2


# --------------------------------------------------------------------------------------------------------------------
# Workers that die or freeze


def claim_and(signal_number: int, project: Path, answers) -> None:
    ledger = Ledger.open(project)
    attempt = ledger.claim("worker")
    answers.put("claimed")
    time.sleep(0.05)  # the queue's thread sends it
    os.kill(os.getpid(), signal_number)
    lost = not ledger.renew(attempt)  # after SIGCONT
    try:
        ledger.finish(attempt, {"metrics": {"val_loss": 1.0}})
    except LostClaim:
        answers.put(("lost", lost))


def test_the_trial_of_a_killed_worker_is_taken_over_at_once(tmp_path):
    prepare(tmp_path, trials=1)
    answers = processes.Queue()
    child = start(claim_and, signal.SIGKILL, tmp_path, answers)
    assert answers.get(timeout=60) == "claimed"
    child.join(60)
    with Ledger.open(tmp_path) as ledger:
        attempt = ledger.claim("another")
        assert attempt is not None
        assert attempt.number == 2


def test_the_trial_of_a_frozen_worker_is_taken_over_after_its_lease_only(tmp_path):
    prepare(tmp_path, trials=1)
    answers = processes.Queue()
    child = start(claim_and, signal.SIGSTOP, tmp_path, answers)
    assert answers.get(timeout=60) == "claimed"
    with Ledger.open(tmp_path) as ledger:
        assert ledger.claim("another") is None
    with Ledger.open(tmp_path, lease_seconds=0.0) as ledger:
        attempt = ledger.claim("another")
        assert attempt is not None
        assert attempt.number == 2
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGCONT)
        assert answers.get(timeout=60) == ("lost", True)
        ledger.finish(attempt, {"metrics": {"val_loss": 2.0}})
        assert ledger.trial(attempt.trial.id).metric("val_loss") == 2.0


def work(project: Path, acknowledged: str) -> None:
    """Finish trial after trial, and write down each result that the ledger has acknowledged."""
    ledger = Ledger.open(project)
    with open(acknowledged, "a") as file:
        while attempt := ledger.claim("worker"):
            assert ledger.renew(attempt)
            ledger.finish(attempt, {"metrics": {"val_loss": attempt.trial.seed / 7}}, [{"step": 1}] * 20)
            print(attempt.trial.seed, file=file, flush=True)


def kill_and_check(project: Path, kills: int, chance: random.Random) -> None:
    sweep = prepare(project, trials=100 * kills)
    acknowledged = project / "acknowledged"
    for _ in range(kills):
        children = [start(work, project, str(acknowledged)) for _ in range(2)]
        size = acknowledged.stat().st_size if acknowledged.exists() else 0
        while all(child.is_alive() for child in children) and (
            not acknowledged.exists() or acknowledged.stat().st_size == size
        ):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        for child in children:
            child.kill()  # SIGKILL, unless it is through with its work
            child.join(60)
    finished = set(map(int, acknowledged.read_text().split()))
    with Ledger.open(project) as ledger:
        kept = {row.trial.seed: row.metric("val_loss") for row in ledger.trials(sweep, status="finished")}
        assert finished <= kept.keys()
        assert len(finished) == len(acknowledged.read_text().split())  # none was run twice
        assert all(loss == seed / 7 for seed, loss in kept.items())
        assert ledger.reclaim() <= 2
        assert ledger.trials(sweep, status="running") == []
    lines = (project / ".foundry" / "events.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))


def test_sigkill_in_the_middle_of_writes_loses_no_result(tmp_path):
    kill_and_check(tmp_path, kills=4, chance=random.Random(1))


@pytest.mark.slow
def test_sigkill_in_the_middle_of_writes_loses_no_result_many_times(tmp_path):
    kill_and_check(tmp_path, kills=20 if SMALL else 100, chance=random.Random(2))
