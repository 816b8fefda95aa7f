"""Warm processes on this machine: each imports torch once, has a device slot and a share of the cores of its own, and
trains one trial after the other."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from foundry.core import contracts
from foundry.core.blame import place_of
from foundry.core.code import foreign_variants
from foundry.core.config import from_plain
from foundry.core.contracts import EnvironmentFailure, FoundryError, PluginError, Stopped
from foundry.lab.ledger.ledger import FOLDER
from foundry.lab.ledger.records import Attempt, LostClaim
from foundry.lab.trials.costs import Costs
from foundry.lab.trials.executors import LocalParams
from foundry.lab.trials.executors.process import WorkerProcess
from foundry.lab.trials.executors.site import LedgerSite

if TYPE_CHECKING:
    from foundry.core.config import Experiment
    from foundry.lab.trials.setting import Setting

SILENT_SECONDS = 10.0
"""A worker that has lost its trial may take so long to notice."""
MAX_DEATHS = 5
"""So many workers may die one after the other without having begun a trial."""
COUNT_SECONDS = 300.0
"""To build and count a model, by a worker that is ready: of the largest it takes some ten seconds."""
TICK_SECONDS = 0.02


class Local:
    """Raises EnvironmentFailure for a device that is not here."""

    def __init__(self, params: LocalParams, site: LedgerSite) -> None:
        self.params, self.site = params, site
        self.workers: list[WorkerProcess | None] = [None] * site.jobs
        self.deaths = 0

    def __enter__(self) -> Self:
        return self

    def work(self, sweep: str, *, waiting: int, device: str, threads: int) -> None:
        self.look_after()
        for slot, worker in enumerate(self.workers):
            if waiting > 0 and (worker is None or worker.idle):
                worker = self.workers[slot] = worker or self.start(slot, device, threads)
                worker.train(sweep)
                waiting -= 1

    def count(self, experiment: Experiment, setting: Setting, stop: Callable[[], bool]) -> Costs:
        """What `experiment` costs, counted by a worker: code that crashes, hangs or ends its process is an error here.

        Args:
            stop: whether an end was requested.

        Raises:
            PluginError: the code of a variant fails, or its process does not survive it.
            FoundryError: of the experiment's data, of the machine, or `Stopped`.
        """
        worker = self.free(setting)
        worker.count(experiment.plain())
        end = float("inf")
        while worker.counted is None:
            is_dead = worker.process.poll() is not None  # asked first: all that it has said is then there
            worker.listen()
            if worker.ready:
                end = min(end, time.monotonic() + COUNT_SECONDS)
            if worker.counted is None and (is_dead or time.monotonic() > end):
                raise self.not_counted(worker, experiment, is_dead)
            if stop():
                raise Stopped("the sweep is stopped", "run the same command again to resume")
            time.sleep(TICK_SECONDS)
        if "costs" in worker.counted:
            return Costs(**worker.counted["costs"])
        message, hint = worker.counted["error"]
        raise getattr(contracts, worker.counted["kind"], FoundryError)(message, hint)

    def free(self, setting: Setting) -> WorkerProcess:
        """A worker that has nothing to do, a new one, or one that soon has nothing to do."""
        self.look_after()
        here = [worker for worker in self.workers if worker is not None]
        if None in self.workers and not any(worker.idle for worker in here):
            slot = self.workers.index(None)
            worker = self.workers[slot] = self.start(slot, setting.device, setting.threads)
            return worker
        return max(here, key=lambda worker: worker.idle)

    def not_counted(self, worker: WorkerProcess, experiment: Experiment, is_dead: bool) -> FoundryError:
        """Of a worker that was lost, or has to be, while it built and counted a model."""
        self.workers[self.workers.index(worker)] = None
        if not is_dead:
            worker.look()
            worker.kill()
            what = "it takes too long to be built and counted"
        elif worker.failure is not None:
            return worker.failure
        elif worker.ready and worker.ended_itself:
            what = worker.end
        else:
            return EnvironmentFailure(f"{worker.name}: {worker.end}", f"see {worker.log}")
        if place := worker.last_line():
            return PluginError(f"{place}: {place.function}: {what}", place.hint)
        return PluginError(f"{suspects(experiment)}: {what}", f"see {worker.log}")

    def look_after(self) -> None:
        """Listen to the workers, and bury the dead."""
        for slot, worker in enumerate(self.workers):
            if worker is not None:
                worker.listen()
                if worker.waits:
                    self.site.note(f"{worker.name} {worker.waits}")
                    worker.waits = ""
                self.end_silent(worker)
                if worker.process.poll() is not None:
                    self.workers[slot] = None
                    self.bury(worker)

    def start(self, slot: int, device: str, threads: int) -> WorkerProcess:
        name = f"worker-{slot}"
        log = self.site.project / FOLDER / f"{name}.log"
        with open(log, "ab") as stderr:
            process = subprocess.Popen(
                self.site.worker(name=name),
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
        return WorkerProcess(name, process, orders, words, log)

    def end_silent(self, worker: WorkerProcess) -> None:
        """A worker that is stopped, or starves, loses its trial to another after a while, and does not know. It keeps
        the lock of the run, and a place among the workers: unless it leaves by itself, it is killed."""
        if not self._has_lost(worker):
            worker.lost = None
        elif worker.lost is None:
            worker.lost = time.monotonic()
        elif time.monotonic() > worker.lost + SILENT_SECONDS:
            self.site.note(f"{worker.name} does not answer, and its trial was given to another worker")
            worker.kill()

    def _has_lost(self, worker: WorkerProcess) -> bool:
        """Whether another may train what it works on."""
        said = worker.attempt
        if said is None or worker.idle:
            return False
        row = self.site.ledger.trial(said["trial"])
        if row is None or row.status not in ("queued", "running"):
            return False
        return row.status == "queued" or row.attempts != said["number"]

    def bury(self, worker: WorkerProcess) -> None:
        """A worker is dead: say so, and blame the trial that it worked on if that is what killed it.

        Raises:
            EnvironmentFailure: the machine is to blame, or it is the fifth that died before its first trial.
        """
        worker.listen()
        if worker.failure is not None:
            raise worker.failure
        self.site.note(f"{worker.name}: {worker.end}; another takes its place")
        if worker.attempt is not None:
            self.deaths = 0
            if worker.ended_itself:
                self.blame(worker, worker.attempt)
            return
        self.deaths += 1
        if self.deaths >= MAX_DEATHS:
            why = f"{worker.end.removeprefix('its worker ')}: {worker.last_words()}"
            raise EnvironmentFailure(f"workers end before their first trial: {why}", f"see {worker.log}")

    def blame(self, worker: WorkerProcess, said: Mapping[str, Any]) -> None:
        """Fail the attempt, unless it ended before its worker did. Three such failures, and the trial has failed."""
        row = self.site.ledger.trial(said["trial"])
        if row is not None and row.status == "running":
            attempt = Attempt(said["attempt"], row.trial, said["number"], row.run)
            place = worker.last_line()
            experiment = from_plain(row.trial.experiment, project=self.site.project, source=f"trial {row.id}")
            where = f"{place}: {place.function}" if place else suspects(experiment)
            with suppress(LostClaim):
                self.site.ledger.fail(attempt, f"{where}: {worker.end}" if where else worker.end, retry=True)

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


def suspects(experiment: Experiment) -> str:
    """Where the code of plugins is that an experiment runs, for when the line is not known: the variants, each
    with its file. Empty: there is none."""
    return ", ".join(
        f"{variant.slot} {variant.name} ({place_of(variant.load()) or variant.target})"
        for variant in foreign_variants(experiment)
    )


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
