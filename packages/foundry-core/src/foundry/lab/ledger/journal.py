"""events.jsonl: every event of the ledger, one line each in the order of `seq`, written after the database has it.

    {"seq": 7, "time": 1764514991.2, "kind": "trial_claimed", "checksum": "0f3c6a51d2e8b794", "data": {...}}

The file is the ledger's second copy. If it is behind, it catches up with the next write; if the database is lost,
behind or damaged, it is made anew from the file. A last line without its end was torn by a crash and is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from foundry.core.system import locked, open_regular, sync_file, writing

CLAIMS = ("trial_claimed", "claim_lost")
"""Events that the journal may lose with the power: the database has them, and without them a trial is queued again.
To wait for the disk twice at each claim halves their rate, to 130 per second on a disk that takes 3.4 ms."""

_LINE = re.compile(
    rb'\{"seq": ([1-9]\d*), "time": ([-+.\de]+), "kind": "(\w+)", "checksum": "([0-9a-f]{16})", "data": (.*)\}\n'
)
_OLD_LINE = re.compile(rb'\{"seq": ([1-9]\d*), "time": ([-+.\de]+), "kind": "(\w+)", "data": (\{.*\})\}\n')
"""Of a Foundry without checksums."""


class Event(NamedTuple):
    """One change of the ledger's state."""

    seq: int  # 1, 2, 3, ... without gaps
    time: float  # seconds since the epoch
    kind: str
    data: str  # JSON

    @property
    def checksum(self) -> str:
        """Of all of it: one wrong bit makes another, and of random damage one in 2^64 goes unseen."""
        text = f"{self.seq} {self.time!r} {self.kind} {self.data}"
        return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()

    @property
    def line(self) -> bytes:
        head = json.dumps({"seq": self.seq, "time": self.time, "kind": self.kind, "checksum": self.checksum})
        return f'{head[:-1]}, "data": {self.data}}}\n'.encode()


class Line(NamedTuple):
    """One whole line of the file."""

    number: int  # 1, 2, 3, ...
    offset: int  # in bytes
    size: int
    event: Event | None  # None: it is damaged
    has_checksum: bool = True  # False: an older Foundry wrote it


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

    def catch_up(self, after: Callable[[int], Iterable[Event]], keep: int | None = None) -> None:
        """Append what `after(last seq in the file)` gives, and wait until the disk has it. What is torn or damaged at
        the end is written again.

        Args:
            keep: bytes at the beginning that stay, where what follows is damaged; None is all of them.
        """
        with self._held() as file:
            end = file.seek(0, os.SEEK_END)
            whole = _end_of_whole_lines(file, end if keep is None else keep)
            last = None
            while whole and (last := _last_line(file, whole)).event is None:
                whole = last.offset
            if whole < end:
                file.truncate(whole)
            is_durable = keep is None
            for event in after(last.event.seq if last and last.event else 0):
                file.write(event.line)
                is_durable = is_durable and event.kind in CLAIMS
            file.flush()
            if not is_durable:
                sync_file(file)

    def last(self) -> Line | None:
        """The last whole line; None without one."""
        try:
            with open_regular(self.path) as file:
                end = _end_of_whole_lines(file, file.seek(0, os.SEEK_END))
                return _last_line(file, end) if end else None
        except FileNotFoundError:
            return None

    def lines(self) -> Iterator[Line]:
        """Every whole line, damaged ones too."""
        if not self.path.exists():
            return
        offset = 0
        with open_regular(self.path) as file:
            for number, text in enumerate(file, start=1):
                if text.endswith(b"\n"):
                    yield _read(text, number, offset)
                offset += len(text)

    @contextmanager
    def reading(self) -> Iterator[Callable[[Line], bytes]]:
        """`text_of(line)`: what stands where that line was found."""
        with open_regular(self.path) as file:

            def text_of(line: Line) -> bytes:
                file.seek(line.offset)
                return file.read(line.size)

            yield text_of


def parse(text: bytes) -> Event | None:
    """The event of a line; None where the line is damaged."""
    return _read(text, 0, 0).event


def _read(text: bytes, number: int, offset: int) -> Line:
    event, has_checksum = None, True
    try:
        if found := _LINE.fullmatch(text):
            seq, time, kind, checksum, data = (part.decode("ascii") for part in found.groups())
            said = Event(int(seq), float(time), kind, data)
            event = said if said.checksum == checksum else None
        elif found := _OLD_LINE.fullmatch(text):
            seq, time, kind, data = (part.decode("ascii") for part in found.groups())
            json.loads(data)
            event, has_checksum = Event(int(seq), float(time), kind, data), False
    except (ValueError, RecursionError, OverflowError):
        pass
    return Line(number, offset, len(text), event, has_checksum)


def _end_of_whole_lines(file: IO[bytes], end: int) -> int:
    """The offset behind the last newline before `end`."""
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _last_line(file: IO[bytes], end: int) -> Line:
    """The last whole line, which ends at `end`. Its number is not known."""
    text, start = b"", end
    while start and b"\n" not in text[:-1]:
        size = min(65536, start)
        start -= size
        file.seek(start)
        text = file.read(size) + text
    text = text[text[:-1].rfind(b"\n") + 1 :]
    return _read(text, 0, end - len(text))
