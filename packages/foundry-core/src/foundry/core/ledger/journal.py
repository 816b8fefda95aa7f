"""events.jsonl: every event of the ledger, one line each in the order of `seq`, written after the database has it.

The file is the ledger's second copy. If it is behind, it catches up with the next write; if the database is lost or
behind, it is made anew from the file. A last line without its end was torn by a crash and is dropped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from foundry.core.contracts import InvalidData
from foundry.core.system import locked, sync_file, writing

CLAIMS = ("trial_claimed", "claim_lost")
"""Events that the journal may lose with the power: the database has them, and without them a trial is queued again.
To wait for the disk twice at each claim halves their rate, to 130 per second on a disk that takes 3.4 ms."""


_HEAD = re.compile(rb'\{"seq": (\d+), ')


class Event(NamedTuple):
    """One change of the ledger's state."""

    seq: int  # 1, 2, 3, ... without gaps
    time: float  # seconds since the epoch
    kind: str
    data: str  # JSON

    @property
    def line(self) -> bytes:
        head = json.dumps({"seq": self.seq, "time": self.time, "kind": self.kind})
        return f'{head[:-1]}, "data": {self.data}}}\n'.encode()


def encode(data: Any) -> str:
    """The one way in which the ledger writes JSON, so that the database and the journal hold the same text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


class Journal:
    """The file, for any number of processes at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def _held(self) -> Iterator[IO[bytes]]:
        """The file, opened for appending, while no other process appends."""
        with writing(self.path, "move the project; nothing is lost"), locked(self.path) as file:
            yield file

    def catch_up(self, after: Callable[[int], Iterable[Event]]) -> None:
        """Append what `after(last seq in the file)` gives, and wait until the disk has it."""
        with self._held() as file:
            end = _drop_torn_line(file)
            events = list(after(_last_seq(file, end)))
            file.write(b"".join(event.line for event in events))
            file.flush()
            if any(event.kind not in CLAIMS for event in events):
                sync_file(file)

    def last_seq(self) -> int:
        """Of the last whole line; 0 without one."""
        try:
            with open(self.path, "rb") as file:
                return _last_seq(file, _end_of_whole_lines(file))
        except FileNotFoundError:
            return 0

    def events(self, after: int = 0) -> Iterator[Event]:
        """The events with a greater seq, in order.

        Raises:
            InvalidData: a line is damaged or missing.
        """
        expected = None
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                event = _parse(line)
                if event is None or event.seq != (expected or event.seq):
                    raise InvalidData(
                        f"{self.path}:{number}: is damaged",
                        "restore it from a copy, or move .foundry/ away to begin anew",
                    )
                expected = event.seq + 1
                if event.seq > after:
                    yield event


def _parse(line: bytes) -> Event | None:
    try:
        row = json.loads(line)
        return Event(int(row["seq"]), float(row["time"]), str(row["kind"]), encode(row["data"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _end_of_whole_lines(file: IO[bytes]) -> int:
    """The offset behind the last newline."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _drop_torn_line(file: IO[bytes]) -> int:
    end = _end_of_whole_lines(file)
    if end < file.seek(0, os.SEEK_END):
        file.truncate(end)
    return end


def _last_seq(file: IO[bytes], end: int) -> int:
    """The seq of the last whole line, which ends at `end`."""
    line, start = b"", end
    while start and b"\n" not in line[:-1]:
        size = min(65536, start)
        start -= size
        file.seek(start)
        line = file.read(size) + line
    line = line[line[:-1].rfind(b"\n") + 1 :]
    if not line:
        return 0
    head = _HEAD.match(line)
    if head is None:
        raise InvalidData(f"{file.name}: its last line is damaged", "restore it from a copy, or move it away")
    return int(head[1])
