"""The ledger of a project: what was tried, with what result, and which baseline holds.

    with Ledger.open(project) as ledger:
        ledger.request(sweep, wanted)            # a driver asks
        attempt = ledger.claim("worker 1")       # a worker takes
        ledger.finish(attempt, result, curve)

Every change of state is one event in one transaction. The rest of Foundry knows this class and the plain values of
`records`, never SQL: a database on a server would be another class with these methods.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foundry.core.contracts import InvalidData
from foundry.lab.ledger.archive import Archive
from foundry.lab.ledger.lease import LEASE_SECONDS
from foundry.lab.ledger.queue import Queue
from foundry.lab.ledger.reader import Reader, can_be_written
from foundry.lab.ledger.store import Store

FOLDER = ".foundry"


class Ledger(Queue, Archive):
    """Opened by `Ledger.open`. One object serves all threads of a process, and goes on working after a fork."""

    def __init__(self, project: Path, store: Store | Reader, lease_seconds: float) -> None:
        self.project = project
        self._store = store
        self.lease_seconds = lease_seconds

    @classmethod
    def open(
        cls,
        project: Path,
        *,
        note: Callable[[str], None] = lambda text: None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> Ledger:
        """The ledger of a project folder, made if there is none. What dead workers held is queued again.

        Args:
            note: told when the database was lost or behind, and was made anew from the events; and which events were
                damaged in which copy.
            lease_seconds: without a heartbeat for so long, a claim is taken over.

        Raises:
            InvalidData: ledger.db or events.jsonl is somebody else's, or of another version, or nothing of either can
                be read.
            EnvironmentFailure: the folder cannot be written, or the disk is full.
        """
        project = Path(project).resolve()
        ledger = cls(project, Store(_folder(project), note), lease_seconds)
        ledger.reclaim()
        return ledger

    @classmethod
    def look(cls, project: Path, *, note: Callable[[str], None] = lambda text: None) -> Ledger:
        """The ledger for who only reads it: opened, and where nothing can be written, as it is there.

        Raises:
            InvalidData: as `open`.
        """
        folder = _folder(Path(project).resolve())
        if can_be_written(folder):
            return cls.open(project, note=note)
        return cls(Path(project).resolve(), Reader(folder, note), LEASE_SECONDS)

    def check(self) -> list[str]:
        """Compare both copies of all events, and mend what differs, where that can be written: what was wrong, in
        words. An opened ledger was compared by its ends alone, if it is large."""
        return self._store.check()

    @staticmethod
    def is_in(project: Path) -> bool:
        """Whether a project has a ledger, or the events of one: who only looks need not make it.

        Raises:
            InvalidData: something else is in its place.
        """
        return any((_folder(project) / name).exists() for name in ("ledger.db", "events.jsonl"))

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _folder(project: Path) -> Path:
    """Where the ledger of a project is, or would be."""
    folder = project / FOLDER
    if folder.exists() and not folder.is_dir():
        raise InvalidData(f"{folder} is a file, and has to be the ledger's folder", "move it away, then run again")
    return folder
