"""One process at a time.

    with locked(path) as file:              # waits until no other process has it
    with locked(path, wait=False) as file:  # raises Busy where another process has

By flock, which the system releases when its holder dies. Where a file system has none (NFS without its lock daemon,
Lustre without its mount option, some that FUSE brings), by a file NAME.held beside it: only one process can create it,
and it says which. That of a process that is known to be gone is taken over; of one on another machine, or from before
this one was started anew, nothing is known.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from foundry.core.contracts import EnvironmentFailure
from foundry.core.system.files import UnfitFile, read_regular
from foundry.core.system.processes import Process, this_process
from foundry.core.system.refusals import writing

HOLDER_BYTES = 4096
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 60.0
"""For a holder of whom nothing is known, where the caller tells nobody that it waits."""


class Busy(EnvironmentFailure):
    """Another process has it."""


@contextmanager
def locked(path: Path, *, wait: bool = True, waiting: Callable[[str], None] | None = None) -> Iterator[IO[bytes]]:
    """`path`, opened for reading and appending, and made if it is not there, while no other process and no other thread
    has it.

    Args:
        waiting: told, once and before it waits, who has it and what to do if that process is gone.

    Raises:
        Busy: another has it, and `wait` is false; or nobody can know whether that one is still alive, it has had it for
            a minute, and nobody is told.
        EnvironmentFailure: the file cannot be written.
    """
    with writing(path):
        file = open(path, "a+b")  # noqa: SIM115 - closed below
    with file:
        if _flock(file, path, wait, waiting):
            yield file
        else:
            with _Name(path).taken(wait, waiting), file:  # closed, and so written, before another may have it
                yield file


def _flock(file: IO[bytes], path: Path, wait: bool, waiting: Callable[[str], None] | None) -> bool:
    """Whether it is locked; False on a file system without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait and not waiting else fcntl.LOCK_NB))
        return True
    except BlockingIOError as error:
        if not wait:
            raise Busy(f"{path} is held by another process", "wait for it, or end it") from error
    except OSError:  # ENOLCK, ENOSYS, EOPNOTSUPP, and whatever else a file system may say
        return False
    if waiting:
        waiting("another process has it")
    fcntl.flock(file, fcntl.LOCK_EX)
    return True


class _Name:
    """A lock by the existence of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.held")
        self.holder = _Holder(os.urandom(8).hex(), this_process())

    @contextmanager
    def taken(self, wait: bool, waiting: Callable[[str], None] | None) -> Iterator[None]:
        """See `locked`."""
        self._take(wait, waiting)
        try:
            yield
        finally:
            self._give_back()

    def _take(self, wait: bool, waiting: Callable[[str], None] | None) -> None:
        seen, end, told = None, 0.0, False
        with writing(self.path):
            while not self._create():
                holder = _Holder.of(self.path)
                if holder is None:
                    continue  # it was given back just now
                if holder != seen:  # each has a minute of its own
                    seen, end = holder, time.monotonic() + _PATIENCE_SECONDS
                late = time.monotonic() > end
                if holder.is_gone(late) and self._take_over(holder):
                    return
                if not wait or (late and not waiting and not holder.is_visible()):
                    raise Busy(f"{self.path} is held by {holder}", self._if_gone)
                if waiting and not told:
                    waiting(f"{holder} has it; {self._if_gone}")
                    told = True
                time.sleep(_POLL_SECONDS)

    def _give_back(self) -> None:
        with suppress(OSError):
            if _Holder.of(self.path) == self.holder:
                self.path.unlink()

    @property
    def _if_gone(self) -> str:
        return f"wait for it, or end it; if it is gone, remove {self.path}"

    def _create(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            with open(descriptor, "wb") as file:
                file.write(self.holder.content)
        except OSError:  # the disk is full; a lock that names nobody would keep everybody out
            self.path.unlink(missing_ok=True)
            raise
        return True

    def _take_over(self, holder: _Holder) -> bool:
        """Take the place of one that is gone. Of several that try, one does: to take over from a certain holder is a
        lock of its own, made in the same way."""
        ticket = _Name(self.path.with_name(f"{self.path.name}.{holder.nonce}"))
        with suppress(Busy), ticket.taken(wait=False, waiting=None):
            if _Holder.of(self.path) == holder:
                staged = self.path.with_name(f"{self.path.name}.{self.holder.nonce}")
                staged.write_bytes(self.holder.content)
                os.replace(staged, self.path)
                return True
        return False


@dataclass(frozen=True)
class _Holder:
    """Who has a lock, once: the nonce is another each time."""

    nonce: str
    process: Process | None  # None: it has not written its name yet, or died before it did

    @classmethod
    def of(cls, path: Path) -> _Holder | None:
        """As the file says; None where there is none."""
        try:
            said = json.loads(read_regular(path, HOLDER_BYTES))
            return cls(said.pop("nonce"), Process(**said))
        except FileNotFoundError:
            return None
        except (UnfitFile, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return cls("nameless", None)

    @property
    def content(self) -> bytes:
        return json.dumps({"nonce": self.nonce, **(asdict(self.process) if self.process else {})}).encode()

    def is_gone(self, late: bool) -> bool:
        """Whether it died. To write one's name takes no minute."""
        return self.process.is_gone() if self.process else late

    def is_visible(self) -> bool:
        return self.process is not None and self.process.is_visible()

    def __str__(self) -> str:
        if self.process is None:
            return "another process"
        return str(self.process)
