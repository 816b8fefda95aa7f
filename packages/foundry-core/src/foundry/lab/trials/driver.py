"""Runs a procedure with real trainings: what it asks for is looked up in the ledger or queued there, and answered once
it has ended. A driver that is killed and started again asks the same, and what is known is answered at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from foundry.core.blame import FAULTS
from foundry.core.contracts import Executor, Stopped
from foundry.lab.decide.request import Answers, Failure, Outcome, Request
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Trial, TrialRow
from foundry.lab.trials.failure import is_the_machines, reason_of
from foundry.lab.trials.heartbeat import SILENT_SECONDS
from foundry.lab.trials.setting import Setting

Ending = TypeVar("Ending")
TICK_SECONDS = 0.1
"""Between two looks at the ledger: what a batch of trials may lose at its end."""
RECLAIM_SECONDS = 1.0


@dataclass(frozen=True)
class Running:
    """A request of the current batch and the state of its trial."""

    request: Request
    row: TrialRow


class TrialReporter(Protocol):
    """Told how the trials of a sweep go. Nothing that it does may change the sweep."""

    def note(self, text: str) -> None:
        """Something that a person should know."""

    def batch(self, trials: Sequence[Running]) -> None:
        """The trials that are wanted now, whenever the state of one has changed."""

    def tick(self) -> None:
        """Some time has passed."""


class Workload(Protocol):
    """What has to be trained for the requests of a procedure."""

    def of(self, request: Request) -> Trial:
        """Its trial; whatever is wrong with it is raised here."""

    def begin(self, request: Request, trial: Trial) -> None:
        """Before a trial is queued for the first time."""

    def end(self, request: Request, trial: Trial) -> None:
        """After a trial has finished."""


@dataclass
class Driver:
    """Answers the requests of one sweep.

    Args:
        stop: whether an end was requested.
        retry: have trials that failed before trained again.
    """

    ledger: Ledger
    sweep: str
    trials: Workload
    metric: str
    setting: Setting
    executor: Executor
    reporter: TrialReporter
    stop: Callable[[], bool] = lambda: False
    retry: bool = False
    order: int = 0
    _reclaimed: float = 0.0
    _told: set[tuple[str, int]] = field(default_factory=set)  # attempts that it has told are waited for

    def drive(self, procedure: Generator[Sequence[Request], Answers, Ending]) -> Ending:
        """The end of the procedure.

        Raises:
            Stopped: the process was asked to stop; the same sweep resumes.
        """
        try:
            requests = next(procedure)
            while True:
                requests = procedure.send(self.answers(requests))
        except StopIteration as end:
            ending: Ending = end.value
            return ending

    def answers(self, requests: Sequence[Request]) -> Mapping[Request, Outcome]:
        """Have all of them trained, and wait. What cannot be made into a trial has failed."""
        trials, impossible = self._trials(requests)
        for request, trial in trials.items():
            if self.ledger.trial(trial.id) is None:
                self.trials.begin(request, trial)
        numbered = enumerate(trials.items(), self.order)
        self.order += len(trials)
        wanted = [(trial, at, each.role, each.arm, str(each.share)) for at, (each, trial) in numbered]
        self.ledger.request(self.sweep, wanted, retry=self.retry)
        rows = {trial.id: self._row(trial.id) for trial in trials.values()}
        self._report(trials, rows)
        seen = -1
        while states := [row.status for row in rows.values() if row.status in ("queued", "running")]:
            if self.stop():
                raise Stopped("the sweep is stopped", "run the same command again to resume")
            setting, waiting = self.setting, states.count("queued")
            self.executor.work(self.sweep, waiting=waiting, device=setting.device, threads=setting.threads)
            newest = self.ledger.last_event()
            if newest == seen:
                self.reporter.tick()
                self._look_after_claims(trials, rows)
                time.sleep(TICK_SECONDS)
            else:
                self._look(trials, rows)
                seen = newest
        return impossible | {request: outcome(rows[trial.id], self.metric) for request, trial in trials.items()}

    def _trials(self, requests: Sequence[Request]) -> tuple[dict[Request, Trial], dict[Request, Outcome]]:
        trials: dict[Request, Trial] = {}
        impossible: dict[Request, Outcome] = {}
        for request in requests:
            try:
                trials[request] = self.trials.of(request)
            except FAULTS as error:  # an arm at another scale may be no valid experiment; or a plugin's schedule fails
                if is_the_machines(error):
                    raise
                impossible[request] = Failure(reason_of(error))
        return trials, impossible

    def _look_after_claims(self, trials: Mapping[Request, Trial], rows: Mapping[str, TrialRow]) -> None:
        """Now and then, queue again what dead workers held, and tell of those that may be."""
        if time.monotonic() - self._reclaimed < RECLAIM_SECONDS:
            return
        self._reclaimed = time.monotonic()
        self.ledger.reclaim()
        holders = self.ledger.holders()
        for request, trial in trials.items():
            holder, attempt = holders.get(trial.id), (trial.id, rows[trial.id].attempts)
            if holder and holder.beat.age > SILENT_SECONDS and attempt not in self._told:
                self._told.add(attempt)
                self.reporter.note(f"trial {trial.id} ({request.arm}): {self.ledger.waiting_for(holder)}")

    def _look(self, trials: Mapping[Request, Trial], rows: dict[str, TrialRow]) -> None:
        """Take in what has changed."""
        changed = False
        for request, trial in trials.items():
            before = rows[trial.id]
            if before.status in ("queued", "running"):
                now = rows[trial.id] = self._row(trial.id)
                changed |= (before.status, before.attempts) != (now.status, now.attempts)
                if now.status == "finished":
                    self.trials.end(request, trial)
        if changed:
            self._report(trials, rows)

    def _row(self, id: str) -> TrialRow:
        row = self.ledger.trial(id)
        assert row is not None
        return row

    def _report(self, trials: Mapping[Request, Trial], rows: Mapping[str, TrialRow]) -> None:
        self.reporter.batch([Running(request, rows[trial.id]) for request, trial in trials.items()])


def outcome(row: TrialRow, metric: str) -> Outcome:
    """The score of a trial that has ended: lower is better."""
    value = row.metric(metric)
    if row.status != "finished":
        return Failure(row.reason or row.status)
    if value is None:
        return Failure(f"it has no {metric}")
    return -value if metric in higher_is_better(row.result or {}) else value


def higher_is_better(result: Mapping[str, Any]) -> Sequence[str]:
    """The metrics of a result of which more is better."""
    return result.get("higher_is_better", ())
