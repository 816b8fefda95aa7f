"""The two copies of a ledger, the database and the journal, compared event by event: what is good in either is good.

    ends_meet(db, journal)       # a look at the last event of both
    copies = examined(db, path, journal)
    copies.damage                # what is wrong with either, in words
    copies.events()              # every event, from wherever it is whole
    built(copies)                # a database of their own, from those events

The tables beside `event` are no copy: `differs` tells whether they are what the events say.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

from foundry.core.contracts import InvalidData
from foundry.lab.ledger import schema
from foundry.lab.ledger.events import project
from foundry.lab.ledger.journal import Event, Journal, Line, encode, parse

SMALL = 1 << 20
"""Bytes of both copies, up to which they are compared whole whenever the ledger is opened: it takes 30 ms."""


class _Row(NamedTuple):
    """An event of the database."""

    seq: int
    event: Event | None  # None: it is damaged
    has_checksum: bool


class Copies:
    """What the database and the journal hold of every event, and what is wrong with either."""

    def __init__(self, db: sqlite3.Connection | None, path: Path, journal: Journal) -> None:
        """
        Args:
            db: None where there is no database, or none that can be read at all.
        """
        self._db, self._path, self.journal = db, path, journal
        self._stored: dict[int, str] = {}  # the checksums of the database's events, of those that are whole
        self._lines: dict[int, tuple[Line, str]] = {}  # where the journal's are, without their texts, and the checksums
        self._torn: dict[int, list[str]] = {}  # where an event is damaged, in words
        self._remains: dict[int, Line] = {}  # the damaged line in the place of an event
        self.damage: list[str] = []
        self.keep: int | None = None  # bytes of the journal that stay; None: it is whole, though it may be behind
        self.is_stored = db is not None  # whether the database has every event, whole
        has_checksums = {row.seq for row in self._read_database() if row.has_checksum}
        self._read_journal()
        self.stored_until = max(self._stored, default=0)  # the last event of the database
        self._compare(has_checksums)
        self._tell()

    @property
    def last_seq(self) -> int:
        """Of the last event that is whole in one of them."""
        return max(max(self._stored, default=0), max(self._lines, default=0))

    @property
    def behind(self) -> int:
        """Events at the end of the journal that the database lacks."""
        return max(0, self.last_seq - self.stored_until) if self._db is not None else 0

    def events(self) -> Iterator[Event]:
        """Every event in order. In the place of one that is lost stands an `event_lost` with what is left of it."""
        newest = 0.0
        with self.journal.reading() if self._lines or self._remains else nullcontext() as text_of:
            for seq in range(1, self.last_seq + 1):
                event = None
                if seq in self._stored and self._db is not None:
                    query = "SELECT seq, time, kind, data FROM event WHERE seq = ?"
                    event = Event(*self._db.execute(query, (seq,)).fetchone())
                elif seq in self._lines and text_of is not None:
                    event = parse(text_of(self._lines[seq][0]))
                if event is None:
                    remains = text_of(self._remains[seq]) if seq in self._remains and text_of is not None else b""
                    lost = {"where": self._torn.get(seq, []), "text": remains.decode("latin-1")}
                    event = Event(seq, newest, "event_lost", encode(lost))
                newest = event.time
                yield event

    # ----------------------------------------------------------------------------------------------------------------

    def _read_database(self) -> Iterator[_Row]:
        for row in _rows(self._db):
            if row.event is None:
                self.is_stored = False
                self._torn.setdefault(row.seq, []).append(f"{self._path}: event {row.seq} is damaged")
            else:
                self._stored[row.seq] = row.event.checksum
            yield row

    def _read_journal(self) -> None:
        expected = 1
        for line in self.journal.lines():
            event, place = line.event, f"{self.journal.path}:{line.number}"
            if event is None:
                where = f"{place}: event {expected} is damaged, {line.size} bytes from byte {line.offset} on"
                self._torn.setdefault(expected, []).append(where)
                self._remains[expected] = line
            elif event.seq in self._lines:
                self.damage.append(f"{place}: event {event.seq} stands there a second time")
            else:
                self._lines[event.seq] = line._replace(event=None), event.checksum
            is_next = event is not None and event.seq == expected
            if self.keep is None and not (is_next and line.has_checksum):
                self.keep = line.offset
            if event is None or event.seq >= expected:
                expected = event.seq + 1 if event else expected + 1

    def _compare(self, has_checksums: set[int]) -> None:
        for seq in sorted(self._stored.keys() & self._lines.keys()):
            line, checksum = self._lines[seq]
            if checksum == self._stored[seq]:
                continue
            if seq == 1:
                raise InvalidData(
                    f"{self._path} and {self.journal.path} belong to different ledgers",
                    "move away the one that is not yours",
                )
            if seq in has_checksums and line.has_checksum:
                raise InvalidData(
                    f"{self._path} and {self.journal.path} are of one ledger, and differ from event {seq} on: each "
                    "went on without the other",
                    "move away the one that is not yours",
                )
            where = f"{self.journal.path}:{line.number}: event {seq} is not the one of {self._path}"
            if line.has_checksum:
                del self._stored[seq]
                self.is_stored = False
            else:
                del self._lines[seq]
                self.keep = min(line.offset, self.keep if self.keep is not None else line.offset)
            self.damage.append(f"{where}; kept is the {'line' if line.has_checksum else 'database'}'s")

    def _tell(self) -> None:
        last = self.last_seq
        self.is_stored = self.is_stored and len(self._stored) == last
        for seq in range(1, last + 1):
            if seq not in self._stored and seq not in self._lines:
                self._torn.setdefault(seq, []).append(f"event {seq} is missing")
            elif seq not in self._stored and seq < self.stored_until and seq not in self._torn:
                self._torn[seq] = [f"{self._path}: event {seq} is missing"]
        for seq, places in sorted(self._torn.items()):
            is_whole = seq in self._stored or seq in self._lines
            end = "it is whole in the other copy" if is_whole else "it is lost"
            self.damage.append(f"{'; '.join(places)}; {end}")


def _rows(db: sqlite3.Connection | None) -> Iterator[_Row]:
    """The events of a database, those that can still be found of a damaged one."""
    if db is None:
        return
    checksum = "checksum"
    try:
        columns = [row[1] for row in db.execute("PRAGMA table_info(event)")]
        checksum = "checksum" if "checksum" in columns else "NULL"
        last = int(db.execute("SELECT coalesce(max(seq), 0) FROM event").fetchone()[0])
    except schema.FAULTS:
        return
    seq, query = 0, f"SELECT seq, time, kind, data, {checksum} FROM event"
    try:
        for row in db.execute(f"{query} ORDER BY seq"):
            seq = row[0]
            yield _row(row)
    except schema.FAULTS:  # behind a broken page there may be whole ones
        for each in range(seq + 1, last + 1):
            try:
                row = db.execute(f"{query} WHERE seq = ?", (each,)).fetchone()
            except schema.FAULTS:
                row = None
            yield _Row(each, None, True) if row is None else _row(row)


def _row(row: tuple) -> _Row:
    seq, at, kind, data, checksum = row
    try:
        event = Event(int(seq), float(at), str(kind), str(data))
        is_whole = event.checksum == checksum if checksum is not None else json.loads(event.data) is not None
    except (ValueError, TypeError, OverflowError, RecursionError):
        return _Row(seq, None, checksum is not None)
    return _Row(seq, event if is_whole else None, checksum is not None)


def ends_meet(db: sqlite3.Connection, journal: Journal) -> bool:
    """Whether the last event of both copies is whole, and the journal's is one of the database's."""
    last = journal.last()
    found = db.execute("SELECT seq, time, kind, data, checksum FROM event ORDER BY seq DESC LIMIT 1").fetchone()
    if found is None or _row(tuple(found)).event is None:
        return False
    if last is None:
        return True
    if last.event is None or not last.has_checksum:
        return False
    same = db.execute("SELECT checksum FROM event WHERE seq = ?", (last.event.seq,)).fetchone()
    return same is not None and bool(same[0] == last.event.checksum)


def is_small(path: Path, journal: Journal) -> bool:
    return sum(each.stat().st_size for each in (path, journal.path) if each.exists()) <= SMALL


def examined(db: sqlite3.Connection | None, path: Path, journal: Journal) -> Copies:
    """Both copies, with what is wrong with the tables, too. Changes nothing."""
    copies = Copies(db, path, journal)
    if db is not None and not copies.damage:
        with closing(built(copies, until=copies.stored_until)) as anew:  # others may be writing just now
            if said := differs(db, anew):
                copies.damage.append(f"{path}: {said}")
    return copies


def built(copies: Copies, until: int | None = None) -> sqlite3.Connection:
    """A database from the events alone: in memory, and where it is large in a temporary file.

    Args:
        until: the last event that is in it; None is all.

    Raises:
        InvalidData: another version of Foundry wrote them.
    """
    db = sqlite3.connect("", isolation_level=None)
    db.row_factory = sqlite3.Row
    db.execute("BEGIN")
    schema.make(db)
    for event in islice(copies.events(), until):
        if event.kind == "ledger_created":
            _check_version(event, copies.journal.path)
        project(db, event)
    if not copies.last_seq:
        data = {"id": os.urandom(8).hex(), "schema": schema.EVENTS_VERSION}
        project(db, Event(1, time.time(), "ledger_created", encode(data)))
    db.execute("COMMIT")
    return db


def _check_version(event: Event, path: Path) -> None:
    version = json.loads(event.data)["schema"]
    if version != schema.EVENTS_VERSION:
        raise InvalidData(
            f"{path} has schema version {version}, this Foundry reads {schema.EVENTS_VERSION}", schema.OTHER_VERSION
        )


@contextmanager
def as_it_is(open: Callable[[], sqlite3.Connection], path: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection that reads what is there at one moment, whatever is damaged in it; None where nothing is."""
    db = None
    try:
        if path.exists() and path.stat().st_size:
            db = open()
            db.row_factory, db.text_factory = None, _text
            if schema.version(db, path):
                db.execute("BEGIN")
            else:
                db.close()
                db = None
    except schema.FAULTS as error:
        if db is not None:
            db.close()
            db = None
        if not schema.is_damage(error):
            raise
    try:
        yield db
    finally:
        if db is not None:
            db.close()


def _text(content: bytes) -> str:
    """Of a damaged file, too: what is no text is no reason to read no further."""
    return content.decode(errors="surrogateescape")


def differs(db: sqlite3.Connection, anew: sqlite3.Connection) -> str:
    """What of a database is not as in one that was built from its events, in words; empty where nothing is."""
    try:
        for query, what in (
            ("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid", "the list of tables"),
            *((f"SELECT * FROM {name}", f"table {name}") for name in _projected(anew)),
        ):
            pairs = zip_longest(map(tuple, db.execute(query)), map(tuple, anew.execute(query)))
            if any(one != other for one, other in pairs):
                return f"{what} is not what the events say"
        said = str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except schema.FAULTS as error:
        return str(error)
    return "" if said == "ok" else said


def _projected(db: sqlite3.Connection) -> list[str]:
    names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return [name for (name,) in names if name not in schema.VOLATILE]
