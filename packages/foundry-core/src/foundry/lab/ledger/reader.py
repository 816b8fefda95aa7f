"""A ledger that is read where nothing can be written: another's project, a medium that is mounted to be read."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from foundry.core.contracts import EnvironmentFailure
from foundry.lab.ledger import schema
from foundry.lab.ledger.copies import as_it_is, built, ends_meet, examined, is_small
from foundry.lab.ledger.journal import Journal
from foundry.lab.ledger.store import Record

CANNOT_SHARE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR)


def can_be_written(folder: Path) -> bool:
    """Whether a ledger can be opened there by `Store`, as far as the rights tell."""
    place = folder if folder.exists() else folder.parent
    files = (place, *place.glob("ledger.*"), *place.glob("events.jsonl"))
    return all(os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids) for path in files)


class Reader:
    """What `Store` is, without its writing. What is damaged, or of an older Foundry, is made anew in memory."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.path = folder / "ledger.db"
        self.journal = Journal(folder / "events.jsonl")
        self._stack = ExitStack()
        with schema.database(self.path):
            self._db = self._open(note)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """What a SELECT finds."""
        with schema.database(self.path):
            return schema.fetched(self._db, query, values, sqlite3.Row)

    def tuples(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a SELECT finds, without the names of its columns."""
        with schema.database(self.path):
            return schema.fetched(self._db, query, values, None)

    def touch(self, statement: str, values: Sequence[Any]) -> None:
        raise self._refusal()

    def transaction(self) -> AbstractContextManager[Record]:
        raise self._refusal()

    def check(self) -> list[str]:
        """What is wrong with the two copies, in words. Nothing is mended."""
        with schema.database(self.path), as_it_is(self._connected, self.path) as db:
            return examined(db, self.path, self.journal).damage

    def close(self) -> None:
        self._db.close()
        self._stack.close()

    def _refusal(self) -> EnvironmentFailure:
        return EnvironmentFailure(f"cannot write {self.path.parent}", "make the project's .foundry/ writable")

    def _open(self, note: Callable[[str], None]) -> sqlite3.Connection:
        try:
            if self.path.exists() and (db := self._connected()):
                is_ours = schema.version(db, self.path) == schema.SCHEMA_VERSION
                if is_ours and ends_meet(db, self.journal) and not is_small(self.path, self.journal):
                    return db
                db.close()
        except schema.FAULTS as error:
            if not schema.is_damage(error):
                raise
        with as_it_is(self._connected, self.path) as found:
            copies = examined(found, self.path, self.journal)
            for each in copies.damage:
                note(f"{each}; it cannot be repaired, because {self.path.parent} cannot be written")
            return built(copies)

    def _connected(self) -> sqlite3.Connection:
        """A connection that writes nothing. A database in write-ahead mode needs a file beside it, even to be read, and
        any asks for locks. Where neither can be had, nobody writes, and the database alone is all of it, unless a log
        was left behind."""
        try:
            return _read_only(self.path, "mode=ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in CANNOT_SHARE:
                raise
        log = self.path.with_name(f"{self.path.name}-wal")
        if not log.exists() or not log.stat().st_size:
            return _read_only(self.path, "mode=ro&immutable=1")
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="foundry-ledger-")))
        for file in (self.path, log):
            shutil.copyfile(file, folder / file.name)
        return _read_only(folder / self.path.name, "mode=rw")


def _read_only(path: Path, how: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", isolation_level=None, uri=True)
    db.row_factory = sqlite3.Row
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except schema.FAULTS:
        db.close()
        raise
    return db
