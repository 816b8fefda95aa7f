"""The tables of .foundry/ledger.db, and how the file is opened.

All but the last two are projections of `event`: they can be made anew from it. What belongs to living processes, who
drives a sweep and when who was heard of last, is volatile and no event. What is long and seldom read has tables of its
own: who reads 50,000 trials' states must not step over 200 MB of experiments.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from foundry.core.contracts import EnvironmentFailure, FoundryError, InvalidData
from foundry.core.system.files import Abilities, open_regular

EVENTS_VERSION = 2
SCHEMA_VERSION = 4
"""Of the tables. A ledger of another version, in these or in its events, is refused, never guessed at."""
OLDER = (2, 3)
"""Versions with the same events, without checksums, and with other tables: made anew from those events."""

APPLICATION_ID = 0x464F554E  # "FOUN", in the header of the file: this database is ours
BUSY_SECONDS = 30.0
FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""What may come of a statement: what SQLite says of a damaged file may quote it, and then is no text."""

TABLES = """
CREATE TABLE event (seq INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
  checksum TEXT NOT NULL);

CREATE TABLE sweep (id TEXT PRIMARY KEY, seq INTEGER NOT NULL, status TEXT NOT NULL, created REAL NOT NULL,
  outline TEXT NOT NULL, conclusion TEXT, spec TEXT NOT NULL);
CREATE TABLE trial (id TEXT PRIMARY KEY, seq INTEGER NOT NULL, identity TEXT NOT NULL, seed INTEGER NOT NULL,
  code TEXT NOT NULL, data TEXT NOT NULL, tasks TEXT NOT NULL, run TEXT NOT NULL, status TEXT NOT NULL,
  attempt INTEGER, attempts INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
  losses INTEGER NOT NULL DEFAULT 0, summary TEXT, reason TEXT NOT NULL DEFAULT '', created REAL NOT NULL, ended REAL);
CREATE TABLE experiment (trial TEXT PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE result (trial TEXT PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE curve (trial TEXT PRIMARY KEY, data TEXT NOT NULL);
CREATE INDEX trial_by_status ON trial (status);
CREATE INDEX trial_by_identity ON trial (identity);
CREATE TABLE wanted (sweep TEXT NOT NULL, trial TEXT NOT NULL, arm TEXT NOT NULL, role TEXT NOT NULL,
  share TEXT NOT NULL, ord INTEGER NOT NULL, open INTEGER NOT NULL, PRIMARY KEY (sweep, trial, arm, role));
CREATE INDEX wanted_by_trial ON wanted (trial);
CREATE TABLE attempt (id INTEGER PRIMARY KEY, trial TEXT NOT NULL, number INTEGER NOT NULL, worker TEXT NOT NULL,
  process TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', began REAL NOT NULL, ended REAL);
CREATE INDEX attempt_by_status ON attempt (status);
CREATE TABLE config (identity TEXT PRIMARY KEY, experiment TEXT NOT NULL, parent TEXT, mutations TEXT NOT NULL,
  changes TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE refusal (seq INTEGER PRIMARY KEY, sweep TEXT NOT NULL, arm TEXT NOT NULL, reason TEXT NOT NULL,
  changes TEXT NOT NULL, created REAL NOT NULL);
CREATE INDEX refusal_by_sweep ON refusal (sweep);
CREATE TABLE noise (metric TEXT NOT NULL, context TEXT NOT NULL, "group" TEXT NOT NULL, sigma REAL NOT NULL,
  df INTEGER NOT NULL, runs INTEGER NOT NULL, created REAL NOT NULL, PRIMARY KEY (metric, context, "group"));
CREATE TABLE evidence (generation INTEGER NOT NULL, baseline TEXT NOT NULL, candidate TEXT NOT NULL,
  metric TEXT NOT NULL, differences TEXT NOT NULL, basis TEXT NOT NULL, terms TEXT NOT NULL,
  PRIMARY KEY (generation, baseline, candidate, metric, basis));
CREATE TABLE decision (id TEXT PRIMARY KEY, seq INTEGER NOT NULL, sweep TEXT NOT NULL, generation INTEGER NOT NULL,
  candidate TEXT NOT NULL, arm TEXT NOT NULL, metric TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL,
  effect REAL, low REAL, high REAL, llr REAL, n INTEGER NOT NULL, rule TEXT NOT NULL, sigma REAL,
  created REAL NOT NULL, confidence REAL);
CREATE INDEX decision_by_sweep ON decision (sweep);
CREATE TABLE generation (number INTEGER PRIMARY KEY, identity TEXT NOT NULL, experiment TEXT NOT NULL,
  kind TEXT NOT NULL, summary TEXT NOT NULL, previous INTEGER, decision TEXT, file_hash TEXT NOT NULL,
  created REAL NOT NULL, text TEXT NOT NULL, loss REAL, given_up REAL NOT NULL,
  ancestry TEXT NOT NULL, rendered INTEGER NOT NULL, restores INTEGER);

CREATE TABLE heartbeat (attempt INTEGER PRIMARY KEY, boot TEXT NOT NULL, clock REAL NOT NULL, wall REAL NOT NULL);
CREATE TABLE driver (sweep TEXT NOT NULL, process TEXT NOT NULL, boot TEXT NOT NULL, clock REAL NOT NULL,
  wall REAL NOT NULL, PRIMARY KEY (sweep, process))
"""

VOLATILE = ("heartbeat", "driver")


def connect(path: Path, can: Abilities) -> sqlite3.Connection:
    """A connection for this thread of this process. Write-ahead logging, so that readers never wait; synchronous FULL,
    so that what was committed is still there after the power failed.

    Args:
        can: what the file system can do. One that cannot lock: SQLite locks nothing, and the caller sees to it that
            no other process is at it. Without memory that processes share there is no write-ahead logging.
    """
    journal = "WAL" if can.lock and can.map else "DELETE"
    flushes = f"synchronous = {'FULL' if can.flush else 'OFF'}"
    if journal == "DELETE" and _is_in_wal_mode(path):
        # Written elsewhere. A process that has it alone needs no shared memory to leave that mode.
        _opened(path, can, "locking_mode = EXCLUSIVE", flushes, "journal_mode = DELETE").close()
    return _opened(path, can, flushes, f"journal_mode = {journal}")


def _is_in_wal_mode(path: Path) -> bool:
    """By the file's header, where byte 18 is 2: see the file format of SQLite, 1.3.3."""
    with suppress(OSError), open_regular(path) as file:
        return file.read(19)[18:] == b"\2"
    return False


def _opened(path: Path, can: Abilities, *pragmas: str) -> sqlite3.Connection:
    where = path.absolute().as_uri() + ("" if can.lock else "?vfs=unix-none")
    db = sqlite3.connect(where, timeout=BUSY_SECONDS, isolation_level=None, uri=True)
    db.row_factory = sqlite3.Row
    try:
        for pragma in pragmas:
            db.execute(f"PRAGMA {pragma}")
    except FAULTS:
        db.close()
        raise
    return db


def fetched(db: sqlite3.Connection, query: str, values: Sequence[Any], kind: type[sqlite3.Row] | None) -> list[Any]:
    """All that a SELECT finds.

    Args:
        kind: of each row; None is a tuple.
    """
    cursor = db.execute(query, values)
    cursor.row_factory = kind
    return cursor.fetchall()


def version(db: sqlite3.Connection, path: Path) -> int:
    """Of the tables that are there: SCHEMA_VERSION, one of OLDER, or 0 where there are none.

    Raises:
        InvalidData: the database is somebody else's, or a ledger of another version.
    """
    if not db.execute("SELECT 1 FROM sqlite_master").fetchone():  # first: another process may be making them just now
        return 0
    application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if application != APPLICATION_ID and not db.execute("PRAGMA table_info(event)").fetchone():
        raise InvalidData(f"{path} is a database, but not a ledger of Foundry", "move it away")
    if version not in (SCHEMA_VERSION, *OLDER):
        raise InvalidData(
            f"{path} has schema version {version}, this Foundry reads {SCHEMA_VERSION}",
            "use the Foundry that wrote it; if none did, move this file away, and it is rebuilt from its events",
        )
    return int(version)


OTHER_VERSION = "use the Foundry that wrote it, or move .foundry/ away to begin a new ledger"


def make(db: sqlite3.Connection) -> None:
    """Create the tables inside the transaction of the caller, which `executescript` would commit."""
    for statement in TABLES.split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def database(path: Path) -> Iterator[None]:
    """Turns what SQLite answers into the FoundryError that says what to do."""
    try:
        yield
    except FAULTS as error:
        raise _explained(error, path) from error


def _explained(error: Exception, path: Path) -> FoundryError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte; the rest says more precisely where
    if is_damage(error):
        return InvalidData(
            f"{path} is damaged: {error}", f"`foundry doctor` repairs it from {path.with_name('events.jsonl')}"
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return EnvironmentFailure(f"cannot write {path}: {error}", "is there space on the disk? then run again")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return EnvironmentFailure(f"{path} is in use by another process for {BUSY_SECONDS:.0f} s", "then run again")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return EnvironmentFailure(f"cannot open {path}: {error}", "make the project's .foundry/ writable")
    return InvalidData(f"{path}: {error}", "is it a ledger of this version of Foundry?")


def is_damage(error: Exception) -> bool:
    """Whether that is what a damaged file answers: no database, a broken tree, a table or a text that is none. The
    tables are ours, and so a statement about them is wrong only where they are."""
    if isinstance(error, UnicodeDecodeError):
        return True
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_MISMATCH)
