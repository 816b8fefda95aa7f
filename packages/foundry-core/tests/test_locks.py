"""One process at a time, where the file system has no flock: by a file beside it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from foundry.core.contracts import EnvironmentFailure
from foundry.core.run import Run
from foundry.core.system import Busy, locked, locks
from foundry.core.system.processes import Process, this_process

pytestmark = pytest.mark.quick

FAR = Process("far", "boot", "namespace", 1, "start")


@pytest.fixture(autouse=True)
def no_flock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.chdir(tmp_path)


class Clock:
    """Time that passes only while somebody waits: 20 s each time."""

    def __init__(self, happens: Callable[[int], None]) -> None:
        self.happens, self.waited = happens, 0

    def monotonic(self) -> float:
        return 20.0 * self.waited

    def sleep(self, seconds: float) -> None:
        self.waited += 1
        self.happens(self.waited)


def _hold(nonce: int, process: Process) -> None:
    Path("lock.held").write_text(json.dumps({"nonce": str(nonce), **asdict(process)}))


def test_a_lock_that_others_pass_on_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them has it for a minute, so each may well be alive."""

    def happens(waited: int) -> None:
        if waited < 20:
            _hold(waited, FAR)
        else:
            Path("lock.held").unlink()

    monkeypatch.setattr(locks, "time", Clock(happens))
    _hold(0, FAR)
    told: list[str] = []
    with locked(Path("lock"), waiting=told.append):
        assert [words[:22] for words in told] == ["process 1 on far has i"]  # once, however long it takes
    _hold(0, FAR)
    monkeypatch.setattr(locks, "time", Clock(lambda waited: None))
    with pytest.raises(Busy, match="held by process 1 on far"), locked(Path("lock")):
        pass


def test_one_that_has_not_written_its_name_yet_keeps_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a process that had waited for a minute before."""

    def happens(waited: int) -> None:
        if waited == 5:
            Path("lock.held").write_text("")
        elif waited == 6:
            _hold(6, this_process())
        elif waited == 8:
            Path("lock.held").unlink()

    clock = Clock(happens)
    monkeypatch.setattr(locks, "time", clock)
    _hold(0, this_process())
    with locked(Path("lock")):
        assert clock.waited == 8


def test_one_that_never_writes_its_name_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(lambda waited: None)
    monkeypatch.setattr(locks, "time", clock)
    Path("lock.held").touch()
    with locked(Path("lock")):
        assert 20 * clock.waited > 60
    assert os.listdir() == ["lock"]


@contextmanager
def _full_disk() -> Iterator[None]:
    """No file of this process can grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_lock_behind() -> None:
    with pytest.raises(EnvironmentFailure, match="cannot write"), _full_disk(), locked(Path("lock")):
        pass
    assert not Path("lock.held").exists()
    with ExitStack() as later, pytest.raises(OSError, match="too large"), locked(Path("lock")) as file:  # noqa: PT012
        later.enter_context(_full_disk())  # until after the lock is given back
        file.write(b"more")
    assert not Path("lock.held").exists()


def test_a_run_that_was_set_aside_is_free() -> None:
    run = Run(Path("run"))
    run.path.mkdir()
    run.config_file.write_text("{}")
    aside = run.set_aside()
    assert aside is not None
    with Run(aside).held():
        assert (aside / ".lock.held").exists()
    assert not (aside / ".lock.held").exists()
