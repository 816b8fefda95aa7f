"""Warm processes on this machine: each imports torch once, has a device slot and a share of the cores of its own, and
trains one trial after the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from foundry.core.contracts import EnvironmentFailure
from foundry.core.ledger.ledger import FOLDER
from foundry.core.ledger.records import Attempt
from foundry.core.sweep.executors import LocalParams
from foundry.core.sweep.executors.site import Site

CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
"""Signals by which a process ends itself: what it trained is to blame. Any other was sent by somebody."""
SILENT_SECONDS = 10.0
"""A worker that has lost its trial may take so long to notice."""
MAX_DEATHS = 5
"""So many workers may die one after the other without having begun a trial."""


@dataclass
class _Process:
    """A worker as its parent sees it."""

    name: str
    process: subprocess.Popen[bytes]
    orders: IO[bytes]  # its standard input
    words: IO[bytes]  # its standard output
    log: Path
    unread: bytes = b""
    idle: bool = True  # it has nothing to do, and was not told of anything
    attempt: Mapping[str, Any] | None = None  # what it said last that it works on
    failure: EnvironmentFailure | None = None  # what it said about the machine
    lost: float | None = None  # since when another may train what it works on

    def listen(self) -> None:
        """Take in what it said since the last time."""
        while piece := self.words.read(65536):  # None: nothing more now; empty: it has ended
            self.unread += piece
        *lines, self.unread = self.unread.split(b"\n")
        for line in lines:
            said = json.loads(line)
            self.idle |= "idle" in said
            if "attempt" in said:
                self.attempt = said
            if "failure" in said:
                self.failure = EnvironmentFailure(said["failure"], said["hint"])

    def tell(self, sweep: str) -> None:
        """There is something to train for `sweep`."""
        self.idle = False
        with suppress(OSError):  # it died a moment ago, or is frozen and the pipe is full
            self.orders.write(f"{sweep}\n".encode())

    def dismiss(self) -> None:
        """End its input: it saves, and leaves."""
        with suppress(OSError):
            self.orders.close()

    def kill(self) -> None:
        """It and what it started, and nothing else: it leads a session of its own."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Local:
    """Raises EnvironmentFailure for a device that is not here."""

    def __init__(self, params: LocalParams, site: Site) -> None:
        self.params, self.site = params, site
        self.workers: list[_Process | None] = [None] * site.jobs
        self.deaths = 0

    def __enter__(self) -> Self:
        return self

    def work(self, sweep: str, *, waiting: int, device: str, threads: int) -> None:
        for slot, worker in enumerate(self.workers):
            if worker is not None:
                worker.listen()
                self.end_silent(worker)
                if worker.process.poll() is not None:
                    self.workers[slot] = None
                    self.bury(worker)
        for slot, worker in enumerate(self.workers):
            if waiting > 0 and (worker is None or worker.idle):
                worker = self.workers[slot] = worker or self.start(slot, device, threads)
                worker.tell(sweep)
                waiting -= 1

    def start(self, slot: int, device: str, threads: int) -> _Process:
        name = f"worker-{slot}"
        log = self.site.project / FOLDER / f"{name}.log"
        command = [sys.executable, "-m", "foundry.core.sweep.worker", str(self.site.project), "--name", name]
        if self.site.trial_seconds is not None:
            command += ["--trial-seconds", str(self.site.trial_seconds)]
        with open(log, "ab") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                env={**os.environ, **slot_environment(slot, device, threads)},
                start_new_session=True,
            )
        orders, words = process.stdin, process.stdout
        assert orders is not None
        assert words is not None
        for pipe in (orders, words):
            os.set_blocking(pipe.fileno(), False)
        return _Process(name, process, orders, words, log)

    def end_silent(self, worker: _Process) -> None:
        """A worker that is stopped, or starves, loses its trial to another after a while, and does not know. It keeps
        the lock of the run, and a place among the workers: unless it leaves by itself, it is killed."""
        if not self._has_lost(worker):
            worker.lost = None
        elif worker.lost is None:
            worker.lost = time.monotonic()
        elif time.monotonic() > worker.lost + SILENT_SECONDS:
            self.site.note(f"{worker.name} does not answer, and its trial was given to another")
            worker.kill()

    def _has_lost(self, worker: _Process) -> bool:
        """Whether another may train what it works on."""
        said = worker.attempt
        if said is None or worker.idle:
            return False
        row = self.site.ledger.trial(said["trial"])
        if row is None or row.status not in ("queued", "running"):
            return False
        return row.status == "queued" or row.attempts != said["number"]

    def bury(self, worker: _Process) -> None:
        """A worker is dead: say so, and blame the trial that it worked on if that is what killed it.

        Raises:
            EnvironmentFailure: the machine is to blame, or it is the fifth that died before its first trial.
        """
        worker.listen()
        if worker.failure is not None:
            raise worker.failure
        code = worker.process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.site.note(f"{worker.name} ended with {how}; another takes its place")
        if worker.attempt is not None:
            self.deaths = 0
            if -code in CRASHES:
                self.blame(worker.attempt, how)
            return
        self.deaths += 1
        if self.deaths >= MAX_DEATHS:
            last = worker.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise EnvironmentFailure(f"workers die before their first trial ({how}): {last[0]}", f"see {worker.log}")

    def blame(self, said: Mapping[str, Any], how: str) -> None:
        """Fail the attempt, unless it ended before its worker did. Three such failures, and the trial has failed."""
        from foundry.core.ledger.records import LostClaim

        row = self.site.ledger.trial(said["trial"])
        if row is not None and row.status == "running":
            attempt = Attempt(said["attempt"], row.trial, said["number"], row.run)
            with suppress(LostClaim):
                self.site.ledger.fail(attempt, f"its worker crashed: {how}", retry=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        alive = [worker for worker in self.workers if worker is not None]
        for worker in alive:
            worker.dismiss()
        end = time.monotonic() + self.params.grace_seconds
        for worker in alive:
            try:
                worker.process.wait(max(0.0, end - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                worker.kill()
            worker.words.close()


def slot_environment(slot: int, device: str, threads: int) -> dict[str, str]:
    """What makes worker `slot` see one device and use so many threads, before torch is imported.

    GPUs are dealt out in turn: with more workers than GPUs, several share one.
    """
    caps = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    if device != "cuda":
        return caps
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        import torch

        gpus = [str(number) for number in range(torch.cuda.device_count())]
    else:
        gpus = [name.strip() for name in visible.split(",") if name.strip()]
    if not gpus:
        raise EnvironmentFailure("the sweep needs a GPU, and torch sees none", "`foundry doctor` shows what is here")
    return {**caps, "CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]}
