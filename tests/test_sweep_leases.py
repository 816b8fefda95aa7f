"""A sweep whose container died is interrupted once nothing was heard of it for a while; whoever goes on with it is told
what it waits for. The container is a pid namespace of its own, the driver in it a real one, killed from outside."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.processes import wait_for
from tests.project import know_noise, working_in
from tests.sweep_processes import make_project, settle, start

from foundry.core.contracts import UsageError
from foundry.core.run import Run
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger import Ledger, SweepRow
from foundry.lab.sweep.lab import open_lab
from foundry.lab.sweep.question import Question
from foundry.lab.sweep.reporter import Silent

QUESTION = Question(stacks=((("lr", "1e-3"),),), rule=Rule(n_max=1))
CLONE_NEWPID = 0x20000000


def in_a_container(project: Path) -> None:
    """A driver that hangs in its first trial, in a pid namespace of its own."""
    from foundry.core.training.trainer import Trainer
    from foundry.lab.trials import heartbeat

    if ctypes.CDLL(None).unshare(CLONE_NEWPID):
        (project / "refused").touch()
        return
    if child := os.fork():
        (project / "container").write_text(str(child))
        os.waitpid(child, 0)
        return
    heartbeat.HEARTBEAT_SECONDS = 0.1
    Trainer.loop = lambda self: signal.pause()
    settle(project, spares=0)
    with open_lab(project, executor="inline") as lab:
        lab.sweep(QUESTION)


def last_heard(project: Path, seconds: float) -> None:
    """As if nobody had given a sign for so long."""
    with sqlite3.connect(project / ".foundry" / "ledger.db", timeout=30) as db:
        for table in ("driver", "heartbeat"):
            db.execute(f"UPDATE {table} SET clock = clock - ?, wall = wall - ?", (seconds, seconds))
    db.close()


def the_sweep(project: Path) -> SweepRow:
    with Ledger.open(project) as ledger:
        return ledger.sweeps()[-1]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Iterator[Path]:
    """One in which a container drives a sweep."""
    with working_in(make_project(tmp_path / "project"), cache=tmp_path / "cache") as folder:
        know_noise(folder)
        child = start(in_a_container, folder)
        with Ledger.open(folder) as ledger:
            wait_for(lambda: (folder / "refused").exists() or ledger.holders())
        if (folder / "refused").exists():
            pytest.skip("this account may make no containers")
        yield folder
        end(folder)
        child.join()


def end(project: Path) -> None:
    """Kill what is process 1 in there; whatever else is in there ends with it."""
    pid = int((project / "container").read_text())
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


class Told(Silent):
    """What a sweep tells; `answers[words]()` is called when it first says so."""

    def __init__(self, **answers: Callable[[], object]) -> None:
        self.answers, self.notes = answers, []

    def note(self, text: str) -> None:
        self.notes.append(text)
        for words, answer in list(self.answers.items()):
            if words.replace("_", " ") in text:
                del self.answers[words]
                answer()


def test_a_driver_in_another_container_is_there_as_long_as_it_gives_a_sign(project):
    assert the_sweep(project).status == "running"
    last_heard(project, 3600)
    wait_for(lambda: the_sweep(project).status == "running")
    end(project)
    assert the_sweep(project).status == "running"  # nobody can know better
    last_heard(project, 3600)
    assert the_sweep(project).status == "interrupted"
    with Ledger.open(project) as ledger:
        assert {row.status for row in ledger.trials()} == {"queued"}


def test_what_a_dead_container_holds_is_waited_for_and_taken_over_and_every_wait_is_told(project):
    end(project)
    last_heard(project, 100)
    sweep = the_sweep(project)
    with Ledger.open(project) as ledger:
        (trial,) = ledger.holders()
        lock = ExitStack()
        lock.enter_context(Run(project / ledger.trial(trial).run).held())

    def lose_the_driver() -> None:
        with sqlite3.connect(project / ".foundry" / "ledger.db", timeout=30) as db:
            db.execute("UPDATE driver SET clock = clock - 3600, wall = wall - 3600")
        db.close()

    told = Told(
        **{f"sweep {sweep.id}": lose_the_driver, f"trial {trial} (": lambda: last_heard(project, 3600)},
        waits_for_up_to=lock.close,
    )
    with open_lab(project, executor="inline", reporter=told) as lab:
        result = lab.resume()
        assert lab.ledger.trial(trial).attempts == 2
    assert (result.sweep, result.conclusion.arms[0].arm) == (sweep.id, "lr 1e-3")
    assert not told.answers
    notes = "\n".join(told.notes)
    elsewhere = rf"process 1 on {os.uname().nodename}, in another container has it, and was last heard of \d+ s ago"
    assert re.search(f"sweep {sweep.id}: {elsewhere}", notes)
    assert re.search(rf"trial {trial} \(.+\): inline, {elsewhere}", notes)
    assert f"waits for up to 60 s: another process ({os.getpid()}) is training" in notes
    assert the_sweep(project).status == "finished"


def test_a_sweep_whose_driver_gives_a_sign_is_left_to_it(project):
    sweep = the_sweep(project)
    with open_lab(project, executor="inline", reporter=Told()) as lab, pytest.raises(UsageError) as refusal:
        lab.resume()
    assert refusal.value.message.startswith(f"no sweep was interrupted: {sweep.id} is driven by process 1 on")
