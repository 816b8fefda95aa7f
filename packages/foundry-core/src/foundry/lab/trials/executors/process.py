"""A worker as its parent sees it: what it is told, what it says, and how it ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from foundry.core.blame import CodeLine, place_at
from foundry.core.contracts import EnvironmentFailure
from foundry.core.system import open_regular

CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
"""Signals by which a process ends itself: what it trained is to blame. Any other was sent by somebody."""
STACK = re.compile(r"(?:Current thread|Stack) [^\n]*\n((?:  (?:File|\.\.\.)[^\n]*\n)*)")
FRAME = re.compile(r'File "(.+)", line (\d+) in (\S+)')
"""Of what Python's fault handler writes, the innermost frame first."""
TELL_AND_END = signal.SIGALRM
"""On which a worker writes which line it is in, and ends. Python's fault handler does it, even where no handler of
Python's would ever run; it marks no end of what it writes, so that of the process is waited for. What schedulers send
before they kill, SIGUSR1 and SIGUSR2, is for them; SIGQUIT, as others use it, would leave a core."""
LOOK_SECONDS = 10.0
"""For a worker to write that."""
LOG_BYTES = 2**20
"""Of a log's end, which is all that is read of it."""


@dataclass
class WorkerProcess:
    """One worker."""

    name: str
    process: subprocess.Popen[bytes]
    orders: IO[bytes]  # its standard input
    words: IO[bytes]  # its standard output
    log: Path
    logged: int = 0  # bytes that were in its log before what it does now
    unread: bytes = b""
    ready: bool = False  # it has imported what it needs
    idle: bool = True  # it has nothing to do, and was not told of anything
    attempt: Mapping[str, Any] | None = None  # what it said last that it works on
    counted: Mapping[str, Any] | None = None  # what it said last of an experiment's costs
    failure: EnvironmentFailure | None = None  # what it said about the machine
    waits: str = ""  # what it said that it waits for, until it was told
    lost: float | None = None  # since when another may train what it works on

    def listen(self) -> None:
        """Take in what it said since the last time."""
        while piece := self.words.read(65536):  # None: nothing more now; empty: it has ended
            self.unread += piece
        *lines, self.unread = self.unread.split(b"\n")
        for line in lines:
            said = json.loads(line)
            self.ready |= "ready" in said
            self.idle |= "idle" in said
            if "attempt" in said:
                self.attempt, self.logged = said, said["logged"]
            if "waits" in said:
                self.waits = said["waits"]
            if "counted" in said:
                self.counted = said
            if "failure" in said:
                self.failure = EnvironmentFailure(said["failure"], said["hint"])

    def tell(self, **order: Any) -> None:
        """What it is to do next."""
        with suppress(OSError):  # it died a moment ago, or is frozen and the pipe is full
            self.orders.write(json.dumps(order).encode() + b"\n")

    def train(self, sweep: str) -> None:
        """There is something to train for `sweep`."""
        self.idle = False
        self.tell(sweep=sweep)

    def count(self, experiment: Mapping[str, Any]) -> None:
        """There is an experiment, as plain data, whose costs are asked for."""
        self.counted, self.logged = None, self.log.stat().st_size
        self.tell(count=experiment)

    @property
    def end(self) -> str:
        """How it ended, in words: `its worker crashed: SIGSEGV`."""
        code = self.process.returncode
        if code < 0:
            how = "crashed" if self.ended_itself else "was ended"
            return f"its worker {how}: {signal.Signals(-code).name}"
        return f"its worker ended: exit code {code}"

    @property
    def ended_itself(self) -> bool:
        """Whether what it ran ended it. Any signal but those of a crash was sent by somebody."""
        code = self.process.returncode
        return code >= 0 or -code in CRASHES

    def last_line(self) -> CodeLine | None:
        """The line of a plugin's code in which it crashed, or was when `look` was called: Python writes it into the
        log."""
        stacks = STACK.findall(self._written_since(self.logged))
        frames = FRAME.findall(stacks[-1]) if stacks else []
        places = (place_at(file, int(line), function) for file, line, function in frames)
        return next((place for place in places if place is not None and place.distribution), None)

    def last_words(self) -> str:
        """The last line of its log."""
        return (self._written_since(0).strip().splitlines() or ["it said nothing"])[-1]

    def _written_since(self, start: int) -> str:
        """The end of what its log has from there on: a trial may print gigabytes."""
        with open_regular(self.log) as log:
            log.seek(max(start, log.seek(0, os.SEEK_END) - LOG_BYTES))
            return log.read(LOG_BYTES).decode(errors="replace")

    def look(self) -> None:
        """Have it write which line it is in, and end."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, TELL_AND_END)
        with suppress(subprocess.TimeoutExpired):  # it is stopped: it says nothing
            self.process.wait(LOOK_SECONDS)

    def dismiss(self) -> None:
        """End its input: it saves, and leaves."""
        with suppress(OSError):
            self.orders.close()

    def kill(self) -> None:
        """It and what it started, and nothing else: it leads a session of its own."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
