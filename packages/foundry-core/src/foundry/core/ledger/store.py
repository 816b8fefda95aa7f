"""The database of one project and its journal: transactions that are events.

    with store.transaction() as record:   # begins at once: what is read inside still holds when it is written
        ...
        record("sweep_started", {...})    # -> seq; the event and what it does to the tables, in the same commit

After the commit the journal catches up. If the database is lost, opening makes it anew from the journal.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foundry.core.contracts import InvalidData
from foundry.core.durable import writing
from foundry.core.ledger import lease, schema
from foundry.core.ledger.events import project
from foundry.core.ledger.journal import Event, Journal, encode

Record = Callable[[str, Mapping[str, Any]], int]


class Store:
    """.foundry/ledger.db and .foundry/events.jsonl."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.path = folder / "ledger.db"
        self.journal = Journal(folder / "events.jsonl")
        self._local = threading.local()
        self._inherited: list[Any] = []  # connections of the process that forked us: to close one would break its locks
        self._pid = os.getpid()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with schema.database(self.path):
            self._begin(note)

    def _begin(self, note: Callable[[str], None]) -> None:
        if not schema.is_made(self._db, self.path):
            with self.journal.held(), self._immediate():  # alone: others wait for the journal
                if not schema.is_made(self._db, self.path):
                    self._make(note)
        self._compare(note)

    def _make(self, note: Callable[[str], None]) -> None:
        schema.make(self._db)
        count = self._replay()
        if count:
            note(f"{self.path} was made anew from {count} events of {self.journal.path.name}")
        else:
            data = {"id": secrets.token_hex(8), "schema": schema.SCHEMA_VERSION}
            project(self._db, Event(1, time.time(), "ledger_created", encode(data)))

    def _compare(self, note: Callable[[str], None]) -> None:
        """Bring the one that is behind to where the other is."""
        first = next(iter(self.journal.events()), None) if self.journal.path.exists() else None
        if first and tuple(first) != tuple(self.rows("SELECT * FROM event WHERE seq = 1")[0]):
            raise InvalidData(
                f"{self.path} and {self.journal.path} belong to different ledgers", "move the wrong one away"
            )
        written, known = self.journal.last_seq(), self._last_seq()
        if written > known:
            with self.journal.held(), self._immediate():
                count = self._replay()
            note(f"{self.path} was behind: {count} events of {self.journal.path.name} were added to it")
        elif written < known:
            self.journal.catch_up(self._events)

    def _replay(self) -> int:
        """Apply the journal's events that the database lacks."""
        count = 0
        for event in self.journal.events(after=self._last_seq()):
            if event.kind == "ledger_created":
                self._check_version(event)
            project(self._db, event)
            count += 1
        me = lease.this_process()
        self._db.execute(  # who still trains gets the time to say so
            "INSERT OR IGNORE INTO heartbeat SELECT id, ?, ?, ? FROM attempt WHERE status = 'running'",
            (me.boot, lease.clock(), time.time()),
        )
        return count

    @property
    def _db(self) -> sqlite3.Connection:
        """This thread's connection, of this process."""
        if os.getpid() != self._pid:
            self._inherited.append(self._local)
            self._local, self._pid = threading.local(), os.getpid()
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = schema.connect(self.path)
        return db

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """What a SELECT finds."""
        with schema.database(self.path):
            return self._db.execute(query, values).fetchall()

    def touch(self, statement: str, values: Sequence[Any]) -> int:
        """Change a volatile table outside of the events; the number of rows."""
        with schema.database(self.path):
            return self._db.execute(statement, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[Record]:
        """Nobody else writes until it ends; whatever is raised inside undoes it. Yields `record(kind, data) -> seq`."""
        recorded = 0

        def record(kind: str, data: Mapping[str, Any]) -> int:
            nonlocal recorded
            recorded = self._last_seq() + 1
            project(self._db, Event(recorded, time.time(), kind, encode(data)))
            return recorded

        with schema.database(self.path), self._immediate():
            yield record
        if recorded:
            self.journal.catch_up(self._events)

    @contextmanager
    def _immediate(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _last_seq(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0])

    def _events(self, after: int) -> Iterable[Event]:
        query = "SELECT seq, time, kind, data FROM event WHERE seq > ? ORDER BY seq"
        return [Event(*row) for row in self.rows(query, (after,))]

    def _check_version(self, event: Event) -> None:
        version = json.loads(event.data)["schema"]
        if version != schema.SCHEMA_VERSION:
            raise InvalidData(
                f"{self.journal.path} has schema version {version}, this Foundry reads {schema.SCHEMA_VERSION}",
                schema.OTHER_VERSION,
            )

    def close(self) -> None:
        """Close this thread's connection."""
        db = getattr(self._local, "db", None)
        if db is not None and os.getpid() == self._pid:
            db.close()
        self._local = threading.local()
