"""A worker: a process that imports torch once and then trains one trial after the other.

    python -P -m foundry.lab.trials.worker PROJECT --name w0 [--sweep ID] [--trial-seconds N]

Each line on its standard input is an order: a sweep that has trials in its queue, or an experiment whose costs are to
be counted. When the input ends, the process that started the worker is gone, and it saves what it trains and leaves.
Started by hand or by a cluster's scheduler, with --sweep, it serves that sweep until it is finished. On what was its
standard output it says which attempt it works on, and whom it waits for; on standard error it logs, and there goes what
the code of a variant prints.

A trial is `foundry.core.training.train` in .foundry/trials/ID, as a user would call it. An attempt that was cut short
goes on where its predecessor's last checkpoint is, bit for bit.
"""

from __future__ import annotations

import argparse
import atexit
import faulthandler
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from foundry.core.blame import FAULTS, explained
from foundry.core.config import from_plain
from foundry.core.contracts import EnvironmentFailure, FoundryError, InvalidData, PluginError, Stopped
from foundry.core.run import Run
from foundry.core.system.parents import in_thread, listen
from foundry.core.system.signals import Interrupt, StopRequest
from foundry.core.undisturbed import undisturbed
from foundry.lab.ledger import Attempt, Ledger, LostClaim
from foundry.lab.trials.costs import Costs
from foundry.lab.trials.executors.process import TELL_AND_END
from foundry.lab.trials.failure import is_the_machines, reason_of
from foundry.lab.trials.heartbeat import Heartbeat, wait_for_predecessor
from foundry.lab.trials.log import TrialLog, log, thinned
from foundry.lab.trials.time_limit import Watch

POLL_SECONDS = 1.0


class Worker:
    """Trains what the ledger's queue holds, one trial at a time, in the calling thread.

    Args:
        trial_seconds: what takes longer has failed; None: nothing has.
        say: told which attempt is begun, and whom it waits for.
        log: told how its training goes.
        leaving: whether this process was asked to end. If not, a KeyboardInterrupt was raised by a variant.
    """

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        trial_seconds: float | None = None,
        say: Callable[..., None] = lambda **facts: None,
        log: Callable[[str], None] = lambda text: None,
        leaving: Callable[[], bool] = lambda: True,
    ) -> None:
        self.ledger, self.name, self.trial_seconds = ledger, name, trial_seconds
        self.say, self.log, self.leaving = say, log, leaving

    def work(self, sweep: str) -> bool:
        """Train one trial of `sweep`; False if none was queued.

        Raises:
            Stopped: a signal came while it trained; the trial is back in the queue, with a checkpoint.
            EnvironmentFailure: this machine cannot train now, whatever the trial, which is back in the queue.
        """
        attempt = self.ledger.claim(self.name, sweep)
        if attempt is None:
            return False
        self.say(attempt=attempt.id, trial=attempt.trial.id, number=attempt.number, run=attempt.run)
        stop = StopRequest()
        watch = Watch(self.ledger, attempt, self.trial_seconds, stop)
        try:
            with watch, Heartbeat(self.ledger, watch.renew), undisturbed(self.changed):
                result, curve = self.result(attempt, watch)
        except (*FAULTS, KeyboardInterrupt) as failure:
            self.end(attempt, watch, failure)
        else:
            with suppress(LostClaim):
                self.ledger.finish(attempt, result, curve)
        finally:
            _free_memory()
        if stop.number:  # it came when the training did not look any more
            raise Stopped(f"stopped by {stop.name}", "run the same command again to resume")
        return True

    def end(self, attempt: Attempt, watch: Watch, failure: BaseException) -> None:
        """After a training that has no result. What is not the trial's own is raised again."""
        is_asked = isinstance(failure, KeyboardInterrupt) and self.leaving()  # while no trainer listened
        if watch.timed_out:
            self.fail(attempt, watch.complaint)
        elif is_asked or is_the_machines(failure):
            self.ledger.release(attempt)
            if not watch.taken_over:
                raise failure
        else:  # whatever it is, of a plugin's code or of ours: it is this trial's, and not the sweep's end
            self.keep_traceback(attempt)
            self.fail(attempt, reason_of(failure))
        if is_asked:
            raise failure

    def result(self, attempt: Attempt, watch: Watch) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Train and evaluate: result.json with every metric, and the curve. What is finished is not trained again."""
        from foundry.core.code import code_fingerprint
        from foundry.core.training import train
        from foundry.lab.trials.fingerprint import data_fingerprint, trial_code
        from foundry.lab.trials.scores import scores

        project = self.ledger.project
        experiment = from_plain(attempt.trial.experiment, project=project, source=f"trial {attempt.trial.id}")
        if trial_code(experiment, attempt.trial.tasks) != attempt.trial.code:  # edited since, or not loaded here
            raise InvalidData("the code of this trial has changed since it was queued", "ask again")
        run = Run(project / attempt.run)
        wait_for_predecessor(run, self.waits)
        # Where the corpus was never prepared, that takes as long as it takes.
        if data_fingerprint(experiment) != attempt.trial.data:
            raise InvalidData("the data of this trial has changed since it was queued", "ask again")
        watch.building_begins()
        with watch.stop:  # while it is built, too
            trained = train(experiment, run.path, reporter=TrialLog(watch, self.log))
            if trained.get("codes") != [code_fingerprint(experiment)]:  # by hand, and by other code
                self.log(f"{run.path} was trained by other code; it is set aside, and the trial begins anew")
                trained = train(experiment, run.path, resume="never", reporter=TrialLog(watch, self.log))
        judged = scores(trained, run.path, experiment, attempt.trial.tasks)
        result = {**trained, "run": attempt.run, **judged}
        return result, thinned(list(run.metrics()))

    def changed(self, change: str) -> None:
        self.log(f"the trial has set {change}; it is set back")

    def waits(self, text: str) -> None:
        self.log(text)
        self.say(waits=text)

    def fail(self, attempt: Attempt, reason: str) -> None:
        with suppress(LostClaim):
            self.ledger.fail(attempt, reason)

    def keep_traceback(self, attempt: Attempt) -> None:
        """Of the exception that is handled now, for those who fix the code: in the log, and in the run folder."""
        self.log(f"trial {attempt.trial.id} failed:\n{traceback.format_exc()}")
        Run(self.ledger.project / attempt.run).keep_error()


# --------------------------------------------------------------------------------------------------------------------
# The process


class _Orders:
    """What the driver writes on our standard input, read by a thread, so that its end is noticed in the middle of a
    training. The main thread learns of that as of SIGTERM: while it trains the trainer notices, and saves; at any other
    instant it leaves."""

    def __init__(self) -> None:
        self.ended = False
        self._orders: list[dict[str, Any]] = []
        self._news = threading.Condition()
        in_thread(lambda: listen(self._order, self._end))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each order in turn, until no process is left that could give one."""
        while not self.ended:
            with self._news:
                self._news.wait_for(lambda: self._orders or self.ended)
            if not self.ended:
                yield self._orders.pop(0)

    def _order(self, line: str) -> None:
        with self._news:
            self._orders.append(json.loads(line))
            self._news.notify()

    def _end(self) -> None:
        self.ended = True


def main() -> int:
    parser = argparse.ArgumentParser(prog="foundry.lab.trials.worker", description="Trains the trials of a sweep.")
    parser.add_argument("project", type=Path)
    parser.add_argument("--name", default=f"{os.uname().nodename}-{os.getpid()}", help="who claims, in the ledger")
    parser.add_argument("--sweep", help="serve this sweep until it is finished, and read no orders")
    parser.add_argument("--trial-seconds", type=float, help="a trial that takes longer has failed")
    arguments = parser.parse_args()
    import foundry.core.training  # noqa: F401 - now, while the first trials are still being chosen

    faulthandler.enable()  # which line crashes is then in the log,
    faulthandler.register(TELL_AND_END, all_threads=False, chain=True)  # and which one hangs
    if not arguments.sweep:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, and meant for the driver
    say = _words()
    try:
        interrupt = Interrupt()
        with Ledger.open(arguments.project, note=log) as ledger:
            say(ready=os.getpid())
            worker = Worker(ledger, arguments.name, arguments.trial_seconds, say, log, lambda: interrupt.came)
            try:
                if arguments.sweep:
                    _serve(worker, arguments.sweep)
                else:
                    _obey(worker, _Orders())
            finally:  # a signal may have come between a claim and its training
                with suppress(FoundryError):
                    ledger.release_all()
    except KeyboardInterrupt:
        log("asked to stop")
    except Stopped as stopped:
        log(stopped.message)
    except FoundryError as failure:
        log(str(failure))
        say(failure=failure.message, hint=failure.hint)
        return int(failure.exit_code)
    return 0


def _obey(worker: Worker, orders: _Orders) -> None:
    for order in orders:
        if "count" in order:
            worker.say(counted=True, **_costs(order["count"], worker.ledger.project))
            continue
        while not orders.ended and worker.work(order["sweep"]):
            _freeze()
        worker.say(idle=order["sweep"])


def _costs(experiment: dict[str, Any], project: Path) -> dict[str, Any]:
    """What an experiment costs, or why that cannot be said."""
    try:
        costs = Costs.count_here(from_plain(experiment, project=project, source="an experiment to count"))
    except FAULTS as error:
        log(traceback.format_exc())
        failure = explained(error)
        if isinstance(failure, EnvironmentFailure) and not is_the_machines(error):  # too large for the memory
            failure = PluginError(failure.message, failure.hint)
        return {"error": [failure.message, failure.hint], "kind": type(failure).__name__}
    return {"costs": asdict(costs)}


def _serve(worker: Worker, sweep: str) -> None:
    while (row := worker.ledger.sweep(sweep)) is not None and row.status != "finished":
        if not worker.work(sweep):
            time.sleep(POLL_SECONDS)


def _words() -> Callable[..., None]:
    """Says something to the process that started us, a line each. From now on nothing else goes there: what a variant
    prints is logged."""
    words = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # not only Python writes there

    def say(**facts: Any) -> None:
        with suppress(OSError):
            print(json.dumps({**facts, "logged": os.fstat(sys.stderr.fileno()).st_size}), file=words, flush=True)

    return say


@cache
def _freeze() -> None:
    """What a first training has imported stays: the collector need not look through it after every trial, which takes a
    quarter of a second."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # else libraries complain of leaks at the end


def _free_memory() -> None:
    """As if the process were new: what fits beside nothing must not depend on what was trained before."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    sys.exit(main())
