"""What is asked of the operating system. Its answers are faked here; tests/test_what_a_system_lacks.py runs commands
where it refuses. Locks and places have files of their own."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from foundry.core.contracts import EnvironmentFailure
from foundry.core.system import (
    available_cores,
    copy_or_link,
    crowd_remark,
    locked,
    memory_bytes,
    move_folder,
    replace_durably,
    sync_file,
    sync_folder,
    writing,
)
from foundry.core.system.files import Abilities, abilities
from foundry.core.system.machine import cpu_quota
from foundry.core.system.parents import CHILD
from foundry.core.system.processes import this_process
from foundry.core.system.refusals import refusal
from foundry.core.system.signals import StopRequest, ask_to_stop, heeded

pytestmark = pytest.mark.quick


def refuse(monkeypatch: pytest.MonkeyPatch, module: object, call: str, number: int) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, call, refused)


# ---- The machine

V2 = "30 23 0:26 {inside} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "31 23 0:27 {inside} {mount} rw,nosuid shared:9 - cgroup cgroup rw,{controllers}"


def machine(root: Path, mounts: list[str], groups: str, files: dict[str, str]) -> Path:
    """A root folder with control groups: those that are mounted, those that we are in, and what their files say."""
    for name, content in {"mountinfo": "\n".join(mounts), "cgroup": groups}.items():
        files = {**files, f"proc/self/{name}": content + "\n"}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def version_2(inside: str = "/") -> str:
    return V2.format(inside=inside, mount="/sys/fs/cgroup")


def version_1(controllers: str, inside: str = "/") -> str:
    return V1.format(inside=inside, mount=f"/sys/fs/cgroup/{controllers}", controllers=controllers)


V1_CPU, V1_MEMORY = version_1("cpu,cpuacct"), version_1("memory")
NESTED = "sys/fs/cgroup/kubepods/pod1"


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "quota"),
    [
        ([version_2()], "0::/", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ([version_2()], "0::/", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ([version_2()], "0::/kubepods/pod1", {f"{NESTED}/cpu.max": "max 100000\n"}, None),
        # A group lies within others, whose limits hold as well.
        (
            [version_2()],
            "0::/kubepods/pod1",
            {f"{NESTED}/cpu.max": "400000 100000\n", "sys/fs/cgroup/kubepods/cpu.max": "50000 20000\n"},
            2.5,
        ),
        # A container sees its own group as the root, or its path on the machine under a mount of its own group.
        ([version_2("/docker/1a")], "0::/docker/1a", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        ([version_2("/docker/1a")], "0::/", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        ([version_2()], "0::/../../1a", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        (
            [V1_MEMORY, V1_CPU],
            "4:memory:/\n3:cpu,cpuacct:/a",
            {
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            [V1_CPU],
            "3:cpu,cpuacct:/",
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        # Both versions at once: the second one for systemd alone, without a controller.
        (
            [V2.format(inside="/", mount="/sys/fs/cgroup/unified"), version_1("cpu", "/docker/1a")],
            "3:cpu:/docker/1a\n0::/docker/1a",
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        ([], "", {}, None),
        ([version_2(), "no line of mountinfo", "a - cgroup"], "nonsense", {"sys/fs/cgroup/cpu.max": "1 0\n"}, None),
    ],
)
def test_a_quota_of_processor_time(
    tmp_path: Path, mounts: list[str], groups: str, files: dict[str, str], quota
) -> None:
    assert cpu_quota(machine(tmp_path, mounts, groups, files)) == quota


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("199999", 1), ("350000", 3), ("99900000", 8)])
def test_cores_are_the_quota_rounded_down(tmp_path, monkeypatch, quota: str, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    root = machine(tmp_path, [version_2()], "0::/", {"sys/fs/cgroup/cpu.max": f"{quota} 100000\n"})
    assert available_cores(root) == cores


@pytest.mark.parametrize(("load", "told"), [(6.4, "6 processes shared the 4 cores"), (6.0, ""), (0.3, "")])
def test_a_machine_that_others_keep_busy_is_told(monkeypatch, load, told):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 99.0, 99.0))
    said = crowd_remark()
    assert said.startswith(told) if told else said == ""


def test_memory_is_the_least_of_the_limits(tmp_path: Path) -> None:
    installed = memory_bytes(machine(tmp_path / "none", [], "", {}))
    assert installed
    files = {"sys/fs/cgroup/a/memory.max": "max\n", "sys/fs/cgroup/memory.max": "1048576\n"}
    assert memory_bytes(machine(tmp_path / "2", [version_2()], "0::/a", files)) == 1 << 20
    first = {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}  # no limit, as version 1 says it
    assert memory_bytes(machine(tmp_path / "1", [V1_MEMORY], "4:memory:/", first)) == installed


# ---- Files


def test_what_cannot_be_flushed_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
        refuse(monkeypatch, os, "fsync", number)
        replace_durably(tmp_path / "file", str(number).encode())
        assert (tmp_path / "file").read_text() == str(number)
    refuse(monkeypatch, os, "fsync", errno.EIO)  # the disk is broken: that is no harm that one may ignore
    with pytest.raises(OSError, match="Input/output"):
        replace_durably(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_text() == str(errno.EOPNOTSUPP)
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)
    with open(tmp_path / "file", "ab") as file, pytest.raises(OSError, match="Input/output"):
        sync_file(file)


def test_a_replaced_file_is_on_the_disk_and_then_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, flush = [], os.fsync

    def told(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", told)
    replace_durably(tmp_path / "file", b"new")
    assert flushed == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]
    refuse(monkeypatch, os, "fsync", errno.EBADF)  # as AIX says of a folder, which cannot be opened to write
    sync_folder(tmp_path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        replace_durably(tmp_path / "file", b"newer")


def test_without_links_there_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("content")
    copy_or_link(tmp_path / "a", tmp_path / "linked")
    assert (tmp_path / "linked").stat().st_ino == (tmp_path / "a").stat().st_ino
    refuse(monkeypatch, os, "link", errno.EPERM)
    copy_or_link(tmp_path / "a", tmp_path / "copied")
    assert (tmp_path / "copied").read_text() == "content"
    assert (tmp_path / "copied").stat().st_ino != (tmp_path / "a").stat().st_ino


def test_a_folder_of_an_image_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system of layers refuses to rename what lies in a lower one; the copy is in the upper one."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("content")
    rename = os.rename

    def layered(source: Path, target: Path) -> None:
        if Path(source).name == "a":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    monkeypatch.setattr(os, "rename", layered)
    move_folder(tmp_path / "a", tmp_path / "c")
    assert os.listdir(tmp_path) == ["c"]
    assert (tmp_path / "c" / "b" / "file").read_text() == "content"


def test_what_sqlite_may_ask_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert abilities(tmp_path) == Abilities(lock=True, map=True, flush=True)
    refuse(monkeypatch, os, "fsync", errno.EINVAL)
    assert abilities(tmp_path) == Abilities(lock=True, map=True, flush=False)
    assert abilities(tmp_path / "none") == Abilities(lock=True, map=True, flush=True)
    assert os.listdir(tmp_path) == []


# ---- Refusals


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "free some space, or choose another place"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "make it writable, or choose another place"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EAGAIN, "ulimit -u"),
        (errno.ENOLCK, "has no locks"),
        (errno.EIO, "look at the disk"),
    ],
)
def test_each_refusal_names_the_way_out(number: int, words: str) -> None:
    error = OSError(number, os.strerror(number), "runs/x")
    told = refusal(error)
    assert told is not None
    assert told.message == f"{os.strerror(number)}: runs/x"
    assert words in told.hint
    with pytest.raises(EnvironmentFailure, match="cannot write") as failed, writing(Path("runs")):
        raise error
    assert words in failed.value.hint


def test_a_mistake_is_no_refusal() -> None:
    assert refusal(FileNotFoundError(errno.ENOENT, "", "x")) is None
    assert refusal(OSError(errno.EBADF, "")) is None
    assert refusal(ValueError()) is None


def test_a_working_directory_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    told = refusal(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    assert told is not None
    assert "cd FOLDER" in told.hint


# ---- Processes


def test_a_process_is_known_by_more_than_its_pid() -> None:
    here = this_process()
    assert not here.is_gone()
    assert replace(here, start="1").is_gone()  # its pid was given to another
    for elsewhere in (replace(here, host="far"), replace(here, boot="another"), replace(here, namespace="pid:[1]")):
        assert not elsewhere.is_visible()
        assert not replace(elsewhere, pid=2**22, start="1").is_gone()  # nobody here can know


def test_one_that_ended_and_was_not_waited_for_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    process = replace(this_process(), pid=child.pid, start="1")
    child.stdout.read()  # until it has ended
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        pass
    assert process.is_gone()
    child.wait()
    assert process.is_gone()


# ---- Signals


@pytest.fixture
def handlers():
    """What the tests do to the handlers is undone."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_what_was_ignored_stays_ignored(handlers: None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    signal.signal(signal.SIGUSR1, lambda *_: None)  # somebody else's
    assert {signal.SIGHUP, signal.SIGUSR1}.isdisjoint(heeded())
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGUSR1)
        assert not stop.requested
        ask_to_stop()
        assert stop.name == "SIGTERM"
        ask_to_stop()  # which for one that was asked is no second time
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_terminal_that_closes_asks_twice_for_one_reason(handlers: None) -> None:
    """By its shell and by the system; a second SIGTERM would end the process."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert stop.number == signal.SIGHUP
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


CHILDREN = {
    "asked": "",
    "asked, and it does not listen": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_child_ends_when_its_parent_is_gone(kind: str) -> None:
    code = "\n".join([
        "import signal, sys, time",
        "from foundry.core.system import parents",
        "parents.ORPHAN_SECONDS = 0.1",
        "parents.end_with_parent()",
        CHILDREN[kind],
        "print('begun', flush=True)",
        "while True: time.sleep(0.01)",
    ])  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | CHILD,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        child.stdin.close()  # as the system does when we die
        assert child.wait(30) == (-signal.SIGTERM if kind == "asked" else -signal.SIGKILL)
    finally:
        child.kill()


def test_who_has_to_wait_for_a_lock_is_told_so_before(tmp_path: Path) -> None:
    told: list[str] = []
    with open(tmp_path / "lock", "w") as held:

        def waiting(words: str) -> None:
            told.append(words)
            fcntl.flock(held, fcntl.LOCK_UN)

        fcntl.flock(held, fcntl.LOCK_EX)
        with locked(tmp_path / "lock", waiting=waiting):
            pass
    assert told == ["another process has it"]
