"""A worker: a process that imports torch once and then trains one trial after the other.

    python -m foundry.core.sweep.worker PROJECT --name w0 [--sweep ID] [--trial-seconds N]

Each line on its standard input names a sweep that has trials in its queue; when the input ends, whoever started the
worker is gone, and it saves what it trains and leaves. Started by hand or by a cluster's scheduler, with --sweep, it
serves that sweep until it is finished. On standard output it says which attempt it works on, on standard error it logs.

A trial is `foundry.core.training.train` in .foundry/trials/ID, as a user would call it. An attempt that was cut short
goes on where its predecessor's last checkpoint is, bit for bit.
"""

from __future__ import annotations

import argparse
import atexit
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
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from foundry.core.config import from_plain
from foundry.core.contracts import EnvironmentFailure, FoundryError, InvalidData, Stopped
from foundry.core.ledger import Attempt, Ledger, LostClaim
from foundry.core.sweep.beside import Log, Watch, log, thinned, wait_for_predecessor
from foundry.core.system.parents import in_thread, listen
from foundry.core.system.signals import StopRequest, heeded

POLL_SECONDS = 1.0


class Worker:
    """Trains what the ledger's queue holds, one trial at a time, in the calling thread.

    Args:
        trial_seconds: what takes longer has failed; None: nothing has.
        say: told which attempt is begun.
        log: told how its training goes.
    """

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        trial_seconds: float | None = None,
        say: Callable[..., None] = lambda **facts: None,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.ledger, self.name, self.trial_seconds, self.say, self.log = ledger, name, trial_seconds, say, log

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
        watch = Watch(self.ledger, attempt, self.trial_seconds)
        try:
            with watch:
                result, curve = self.result(attempt, watch)
        except FoundryError as failure:
            if watch.timed_out:
                self.fail(attempt, watch.complaint)
            elif _is_the_machines(failure):
                self.ledger.release(attempt)
                if not watch.taken_over:
                    raise
            else:
                self.fail(attempt, f"{type(failure).__name__}: {failure.message}")
        except Exception as failure:  # of a plugin's code, or of ours: it is this trial's, and not the sweep's end
            self.log(f"trial {attempt.trial.id} failed:\n{traceback.format_exc()}")
            self.fail(attempt, " ".join(f"{type(failure).__name__}: {failure}".split()))
        except KeyboardInterrupt:  # of `_Orders`, before the trainer listened or after
            if watch.timed_out:
                self.fail(attempt, watch.complaint)
            else:
                self.ledger.release(attempt)
            raise
        else:
            with suppress(LostClaim):
                self.ledger.finish(attempt, result, curve)
        finally:
            _free_memory()
        return True

    def result(self, attempt: Attempt, watch: Watch) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Train and evaluate: result.json with every metric, and the curve. What is finished is not trained again."""
        from foundry.core.run import Run
        from foundry.core.sweep.fingerprint import code_fingerprint
        from foundry.core.training import train

        project = self.ledger.project
        experiment = from_plain(attempt.trial.experiment, project=project, source=f"trial {attempt.trial.id}")
        if code_fingerprint(experiment, attempt.trial.tasks) != attempt.trial.code:  # edited since, or not loaded here
            raise InvalidData("the code of this trial has changed since it was asked for", "ask again")
        run = Run(project / attempt.run)
        wait_for_predecessor(run, self.log)
        with StopRequest():  # while it is built, too: it is the trial that is asked to stop, and the worker goes on
            trained = train(experiment, run.path, reporter=Log(watch, self.log))
        metrics = {name: trained[name] for name in ("val_loss", "val_bpb", "train_loss") if trained[name] is not None}
        if trained["training_seconds"] > 0:
            metrics["tokens_per_second"] = trained["tokens"] / trained["training_seconds"]
        higher = ["tokens_per_second"]
        for task in attempt.trial.tasks:
            from foundry.core.handle import evaluate_task

            score = evaluate_task(run.path, task)
            metrics[task] = score.mean
            higher += [task] if score.higher_is_better else []
        result = {**trained, "run": attempt.run, "metrics": metrics, "higher_is_better": higher}
        return result, thinned(list(run.metrics()))

    def fail(self, attempt: Attempt, reason: str) -> None:
        with suppress(LostClaim):
            self.ledger.fail(attempt, reason)


def _is_the_machines(failure: FoundryError) -> bool:
    """Whether another trial would fail in the same way, and this one would not elsewhere: a full disk, a stop. A model
    too large for the memory is the trial's own."""
    from foundry.core.limits import is_out_of_memory

    cause = failure.__cause__
    own = cause is not None and is_out_of_memory(cause)
    return isinstance(failure, (Stopped, EnvironmentFailure)) and not own


# --------------------------------------------------------------------------------------------------------------------
# The process


class _Orders:
    """What the driver writes on our standard input, read by a thread, so that its end is noticed in the middle of a
    training. The main thread learns of that as of SIGTERM: while it trains the trainer notices, and saves; at any other
    instant it leaves. A signal in a training's last moments changes nothing there, so `ended` is looked at, too."""

    def __init__(self) -> None:
        self.ended = False
        self._sweep = ""
        self._news = threading.Condition()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, and meant for the driver
        for number in heeded():
            signal.signal(number, self._leave)
        in_thread(lambda: listen(self._order, self._end))

    def sweeps(self) -> Iterator[str]:
        """The sweep that was named last, each time that one is named, until there is nobody who could."""
        while not self.ended:
            with self._news:
                self._news.wait_for(lambda: self._sweep or self.ended)
                sweep, self._sweep = self._sweep, ""
            if not self.ended:
                yield sweep

    def _order(self, sweep: str) -> None:
        with self._news:
            self._sweep = sweep
            self._news.notify()

    def _end(self) -> None:
        self.ended = True

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self.ended = True
        raise KeyboardInterrupt  # raised while a plugin is imported, anything else would be the plugin's fault


def main() -> int:
    parser = argparse.ArgumentParser(prog="foundry.core.sweep.worker", description="Trains the trials of a sweep.")
    parser.add_argument("project", type=Path)
    parser.add_argument("--name", default=f"{os.uname().nodename}-{os.getpid()}", help="who claims, in the ledger")
    parser.add_argument("--sweep", help="serve this sweep until it is finished, and read no orders")
    parser.add_argument("--trial-seconds", type=float, help="a trial that takes longer has failed")
    arguments = parser.parse_args()
    import foundry.core.training  # noqa: F401 - now, while the first trials are still being chosen

    try:
        with Ledger.open(arguments.project, note=log) as ledger:
            worker = Worker(ledger, arguments.name, arguments.trial_seconds, _say, log)
            _say(ready=os.getpid())
            if arguments.sweep:
                _serve(worker, arguments.sweep)
            else:
                orders = _Orders()
                for sweep in orders.sweeps():
                    while not orders.ended and worker.work(sweep):
                        _freeze()
                    _say(idle=sweep)
    except KeyboardInterrupt:
        log("asked to stop")
    except Stopped as stopped:
        log(stopped.message)
    except FoundryError as failure:
        log(str(failure))
        _say(failure=failure.message, hint=failure.hint)
        return int(failure.exit_code)
    return 0


def _serve(worker: Worker, sweep: str) -> None:
    while (row := worker.ledger.sweep(sweep)) is not None and row.status != "finished":
        if not worker.work(sweep):
            time.sleep(POLL_SECONDS)


def _say(**facts: Any) -> None:
    """One line to whoever started us."""
    with suppress(OSError):
        print(json.dumps(facts), flush=True)


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
