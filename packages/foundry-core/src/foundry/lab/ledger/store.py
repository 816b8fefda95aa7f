"""The database of one project and its journal: transactions that are events.

    with store.transaction() as record:   # begins at once: what is read inside still holds when it is written
        ...
        record("sweep_started", {...})    # -> seq; the event and what it does to the tables, in the same commit

After the commit the journal catches up. When a ledger is opened, its two copies are compared: small ones whole, large
ones by their ends, for a ledger of 50,000 trials has 300 MB of events. What is damaged in one of them is taken from the
other; a database that is lost, even under a process that has it open, is made anew from the journal.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import astuple
from functools import cached_property
from pathlib import Path
from typing import Any

from foundry.core.contracts import InvalidData
from foundry.core.system import locked, writing
from foundry.core.system.files import Abilities, abilities, sync_folder
from foundry.lab.ledger import lease, schema
from foundry.lab.ledger.copies import Copies, as_it_is, built, differs, ends_meet, examined, is_small
from foundry.lab.ledger.events import project
from foundry.lab.ledger.journal import Event, Journal, encode

TOLD = 10
"""Damaged events that are named one by one."""

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
        with schema.database(self.path):
            if not self._agrees():
                self.check()

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """What a SELECT finds."""
        return self._found(query, values, sqlite3.Row)

    def tuples(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a SELECT finds, without the names of its columns: of 50,000 rows that saves a quarter of the time."""
        return self._found(query, values, None)

    def _found(self, query: str, values: Sequence[Any], kind: type[sqlite3.Row] | None) -> list[Any]:
        with schema.database(self.path):
            try:
                with self._quiet():
                    return schema.fetched(self._db, query, values, kind)
            except schema.FAULTS as error:
                if not schema.is_damage(error) or self._is_in_transaction:
                    raise
            self.check()
            with self._quiet():
                return schema.fetched(self._db, query, values, kind)

    def check(self) -> list[str]:
        """Compare all of the two copies, and mend each from the other: what was wrong, in words.

        Raises:
            InvalidData: they are of two ledgers, or there is no event left.
        """
        with schema.database(self.path), self._turn():
            return self._mend(_file(self.path) is not None)

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
    def _is_in_transaction(self) -> bool:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        return db is not None and db.in_transaction

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
        """A connection to a database with its tables; made anew if it is not there, or of an older version."""
        while True:
            if _file(self.path) is not None:
                db = self._opened()
                try:
                    if schema.version(db, self.path) == schema.SCHEMA_VERSION:
                        return db
                except BaseException:
                    db.close()
                    raise
                db.close()
            with self._turn():
                if not self._is_there():
                    self._mend(False)

    def _is_there(self) -> bool:
        """Whether there is a database of this version; another process may have made it meanwhile."""
        if _file(self.path) is None:
            return False
        with closing(self._opened()) as db:
            return schema.version(db, self.path) == schema.SCHEMA_VERSION

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

    # ----------------------------------------------------------------------------------------------------------------
    # The two copies

    def _agrees(self) -> bool:
        """Whether both copies are there and hold the same, as far as is looked; the journal catches up if it is only
        behind."""
        try:
            with self._quiet():
                if not ends_meet(self._db, self.journal):
                    return False
                if is_small(self.path, self.journal):
                    with as_it_is(self._opened, self.path) as db:
                        if examined(db, self.path, self.journal).damage:
                            return False
                newest, last = _last_seq(self._db), self.journal.last()
            if last is None or last.event is None or last.event.seq < newest:
                self.journal.catch_up(self._events)
        except schema.FAULTS as error:
            if not schema.is_damage(error):
                raise
            return False
        return True

    def _opened(self) -> sqlite3.Connection:
        return schema.connect(self.path, self._can)

    def _mend(self, was_there: bool) -> list[str]:
        """Make the database anew where it is not what the events say, then the journal."""
        with as_it_is(self._opened, self.path) as db:
            copies = Copies(db, self.path, self.journal)
            if was_there and db is None and not copies.last_seq:
                raise InvalidData(
                    f"{self.path} is damaged, and there is no {self.journal.path.name} to rebuild it from",
                    "restore one of them from a copy, or move .foundry/ away to start anew",
                )
            said = copies.damage
            is_old = db is not None and db.execute("PRAGMA user_version").fetchone()[0] in schema.OLDER
            with closing(built(copies)) as anew:
                wrong = "" if db is None or is_old or not copies.is_stored else differs(db, anew)
                if wrong:
                    said.append(f"{self.path}: {wrong}; made anew from its events")
                if db is None or is_old or wrong or not copies.is_stored:
                    self._publish(anew, db)
        if copies.keep is not None or was_there:
            self.journal.catch_up(self._events, keep=copies.keep)
        name = self.journal.path.name
        if copies.behind:
            self._note(f"{self.path} was behind: {copies.behind} events of {name} were added to it")
        elif db is None and copies.last_seq:
            what = "could not be read" if was_there else "was lost"
            self._note(f"{self.path} {what}, and made anew from {copies.last_seq} events of {name}")
        for each in said[:TOLD]:
            self._note(each)
        if len(said) > TOLD:
            self._note(f"and {len(said) - TOLD} more of that kind")
        return said

    def _publish(self, anew: sqlite3.Connection, old: sqlite3.Connection | None) -> None:
        """Put a database in the place of the old one, with what is volatile in that. Whoever has the old one open
        notices before the next statement."""
        for table in schema.VOLATILE:
            with suppress(*schema.FAULTS):  # of a damaged one, as much as can be read
                for row in old.execute(f"SELECT * FROM {table}") if old is not None else ():
                    anew.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        anew.execute(  # who trains on meanwhile gets the time to say so
            "INSERT OR IGNORE INTO heartbeat SELECT id, ?, ?, ? FROM attempt WHERE status = 'running'",
            astuple(lease.Beat.now()),
        )
        new = self.path.with_name(f"{self.path.name}.new")
        with writing(new):
            try:
                new.unlink(missing_ok=True)
                with closing(schema.connect(new, self._can)) as target:
                    anew.backup(target)
                for rest in ("-wal", "-shm"):  # of the old one
                    self.path.with_name(self.path.name + rest).unlink(missing_ok=True)
                os.replace(new, self.path)
            finally:
                for rest in ("", "-wal", "-shm", "-journal"):
                    new.with_name(new.name + rest).unlink(missing_ok=True)
            sync_folder(self.path.parent)

    def _events(self, after: int) -> Iterator[Event]:
        """Those behind one of them, a few at a time: of 50,000 trials they are 300 MB."""
        query = "SELECT seq, time, kind, data FROM event WHERE seq > ? ORDER BY seq LIMIT 1000"
        while found := self.rows(query, (after,)):
            yield from (Event(*row) for row in found)
            after = found[-1]["seq"]


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
    """Which file has this name now; None for one that is not there, or that is still empty."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size else None
