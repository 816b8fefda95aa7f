"""The database of one project and its journal: transactions that are events.

    with store.transaction() as record:   # begins at once: what is read inside still holds when it is written
        ...
        record("sweep_started", {...})    # -> seq; the event and what it does to the tables, in the same commit

After the commit the journal catches up. If the database is lost, even under a process that has it open, it is made anew
from the journal.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple
from functools import cached_property
from pathlib import Path
from typing import Any

from foundry.core.contracts import InvalidData
from foundry.core.ledger import lease, schema
from foundry.core.ledger.events import project
from foundry.core.ledger.journal import Event, Journal, encode
from foundry.core.system import locked, writing
from foundry.core.system.files import Abilities, abilities

Record = Callable[[str, Mapping[str, Any]], int]


class Store:
    """.foundry/ledger.db, .foundry/events.jsonl, and .foundry/ledger.lock, in front of which writers queue."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.path = folder / "ledger.db"
        self.journal = Journal(folder / "events.jsonl")
        self._note = note
        self._thread_local = threading.local()
        self._inherited: list[Any] = []  # connections of the process that forked us: to close one would break its locks
        self._pid = os.getpid()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with schema.database(self.path), self._quiet():
            self._agree(self._db)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """What a SELECT finds."""
        with schema.database(self.path), self._quiet():
            return self._db.execute(query, values).fetchall()

    def touch(self, statement: str, values: Sequence[Any]) -> None:
        """Change a volatile table, which is no event."""
        with schema.database(self.path), self._quiet():
            self._db.execute(statement, values)

    @contextmanager
    def transaction(self) -> Iterator[Record]:
        """Nobody else writes until it ends; whatever is raised inside undoes it. Yields `record(kind, data) -> seq`."""
        kinds: list[str] = []

        def record(kind: str, data: Mapping[str, Any]) -> int:
            kinds.append(kind)
            event = Event(_last_seq(db) + 1, time.time(), kind, encode(data))
            project(db, event)
            return event.seq

        with schema.database(self.path), self._turn():
            db = self._db
            with _immediate(db):
                yield record
        if kinds:
            self.journal.catch_up(self._events)

    def close(self) -> None:
        """Close this thread's connection. Other threads keep theirs."""
        db = getattr(self._local, "db", None)
        if db is not None:
            db.close()
            self._local.db = None

    # ----------------------------------------------------------------------------------------------------------------

    @property
    def _local(self) -> threading.local:
        """What is this thread's own, in this process."""
        if os.getpid() != self._pid:
            self._inherited.append(self._thread_local)
            self._thread_local, self._pid = threading.local(), os.getpid()
        return self._thread_local

    @property
    def _db(self) -> sqlite3.Connection:
        """This thread's connection to the file that is there now."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is not None and (db.in_transaction or self._local.file == _file(self.path)):
            return db
        if db is not None:
            db.close()
        db = self._local.db = self._connect()
        self._local.file = _file(self.path)
        return db

    def _connect(self) -> sqlite3.Connection:
        """A connection to a database with its tables; made anew if it is not there."""
        if _file(self.path) is None:
            with self._turn():
                if _file(self.path) is None:
                    for rest in ("-wal", "-shm"):  # of the file that was lost
                        self.path.with_name(self.path.name + rest).unlink(missing_ok=True)
                    schema.connect(self.path, self._can).close()
        db = schema.connect(self.path, self._can)
        if not schema.is_made(db, self.path):
            with self._turn(), _immediate(db):
                if not schema.is_made(db, self.path):
                    self._make(db)
        return db

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait in line. SQLite's own waiting is by trying again, and of 32 claimers some then wait 3 s, not 0.5."""
        if getattr(self._local, "has_turn", False):
            yield
            return
        local = self._local
        with locked(self.path.with_name("ledger.lock")):
            local.has_turn = True
            try:
                yield
            finally:
                local.has_turn = False

    @cached_property
    def _can(self) -> Abilities:
        """What the file system can do. If it cannot lock, SQLite is told to lock nothing, and processes take turns."""
        return abilities(self.path.parent)

    def _quiet(self) -> AbstractContextManager[None]:
        """Nobody writes meanwhile what would be half there."""
        return nullcontext() if self._can.lock else self._turn()

    def _make(self, db: sqlite3.Connection) -> None:
        if not schema.make(db):
            return
        if count := self._replay(db):
            self._note(f"{self.path} was lost, and made anew from {count} events of {self.journal.path.name}")
        else:
            data = {"id": os.urandom(8).hex(), "schema": schema.EVENTS_VERSION}
            project(db, Event(1, time.time(), "ledger_created", encode(data)))

    def _agree(self, db: sqlite3.Connection) -> None:
        """Bring the one of database and journal that is behind to where the other is."""
        first = next(self.journal.events(), None)
        if first and tuple(first) != tuple(db.execute("SELECT * FROM event WHERE seq = 1").fetchone()):
            raise InvalidData(
                f"{self.path} and {self.journal.path} belong to different ledgers",
                "move away the one that is not yours",
            )
        if self.journal.last_seq() > _last_seq(db):
            with self._turn(), _immediate(db):
                count = self._replay(db)
            self._note(f"{self.path} was behind: {count} events of {self.journal.path.name} were added to it")
        elif self.journal.last_seq() < _last_seq(db):
            self.journal.catch_up(self._events)

    def _replay(self, db: sqlite3.Connection) -> int:
        """Apply the journal's events that the database lacks."""
        count = 0
        for event in self.journal.events(after=_last_seq(db)):
            if event.kind == "ledger_created":
                self._check_version(event)
            project(db, event)
            count += 1
        db.execute(  # who trains on meanwhile gets the time to say so
            "INSERT OR IGNORE INTO heartbeat SELECT id, ?, ?, ? FROM attempt WHERE status = 'running'",
            astuple(lease.Beat.now()),
        )
        return count

    def _check_version(self, event: Event) -> None:
        version = json.loads(event.data)["schema"]
        if version != schema.EVENTS_VERSION:
            raise InvalidData(
                f"{self.journal.path} has schema version {version}, this Foundry reads {schema.EVENTS_VERSION}",
                schema.OTHER_VERSION,
            )

    def _events(self, after: int) -> list[Event]:
        query = "SELECT seq, time, kind, data FROM event WHERE seq > ? ORDER BY seq"
        return [Event(*row) for row in self.rows(query, (after,))]


@contextmanager
def _immediate(db: sqlite3.Connection) -> Iterator[None]:
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException:  # an interrupt, too, must not leave it open
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _last_seq(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0])


def _file(path: Path) -> tuple[int, int] | None:
    """Which file has this name now; None for one that is not there, or that nobody has written to yet."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size else None
