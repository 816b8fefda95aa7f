"""What is run: sweeps, their trials, and the processes that train them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple
from functools import cache
from sqlite3 import Row
from typing import Any

from foundry.core.contracts import UsageError
from foundry.core.digest import digest
from foundry.core.system.processes import Process, this_process
from foundry.lab.ledger import lease, rows
from foundry.lab.ledger.journal import encode
from foundry.lab.ledger.reader import Reader
from foundry.lab.ledger.records import (
    Attempt,
    BriefTrial,
    Json,
    LostClaim,
    Role,
    SweepStatus,
    Trial,
    TrialRow,
    TrialStatus,
    Wanted,
)
from foundry.lab.ledger.store import Store
from foundry.lab.ledger.sweep_row import SweepRow

MEASURED = ("sigma", "df", "evidence", "setting")
"""Keys of a sweep's spec that were known when it started, and do not make it another sweep."""


class Queue:
    """The half of the ledger that changes while something is trained."""

    _store: Store | Reader
    lease_seconds: float

    # ----------------------------------------------------------------------------------------------------------------
    # Sweeps

    def start_sweep(self, spec: Json) -> str:
        """The id of the sweep that `spec` describes; the same spec is the same sweep, whose first spec stays. The
        calling process counts as its driver until it dies, is silent for too long, or leaves. There may be others."""
        id = _sweep_id(spec)
        with self._store.transaction() as record:
            if self.sweep(id) is None:
                record("sweep_started", {"id": id, "spec": dict(spec)})
            beat = astuple(lease.Beat.now())
            self._store.touch("INSERT OR REPLACE INTO driver VALUES (?, ?, ?, ?, ?)", (id, _process(), *beat))
        return id

    def knows_sweep(self, spec: Json) -> bool:
        """Whether the sweep that `spec` describes was ever started."""
        return self.sweep(_sweep_id(spec)) is not None

    def leave_sweep(self, id: str) -> None:
        """This process drives the sweep no longer: unless another does, it is interrupted."""
        self._store.touch("DELETE FROM driver WHERE sweep = ? AND process = ?", (id, _process()))

    def renew_sweeps(self) -> None:
        """A heartbeat, for all that this process drives."""
        beat = astuple(lease.Beat.now())
        self._store.touch("UPDATE driver SET boot = ?, clock = ?, wall = ? WHERE process = ?", (*beat, _process()))

    def drivers(self, sweep: str) -> list[lease.Holder]:
        """Who drives a sweep, as far as is known."""
        found = map(rows.holder, self._store.rows("SELECT * FROM driver WHERE sweep = ?", (sweep,)))
        return [driver for driver in found if not driver.lost_claim(self.lease_seconds)]

    def finish_sweep(self, id: str, conclusion: Json) -> None:
        """The sweep is over; what only it had queued is cancelled. A second conclusion changes nothing."""
        with self._store.transaction() as record:
            sweep = self.sweep(id)
            if sweep is None:
                raise UsageError(f"there is no sweep {id}")
            if sweep.status != "finished":
                record("sweep_finished", {"id": id, "conclusion": dict(conclusion)})

    def sweep(self, id: str) -> SweepRow | None:
        return next(iter(self._sweeps("WHERE id = ?", (id,))), None)

    def sweeps(self, status: SweepStatus | None = None) -> list[SweepRow]:
        """All sweeps, or those of one status, oldest first."""
        return [sweep for sweep in self._sweeps("ORDER BY seq") if status in (None, sweep.status)]

    def _sweeps(self, where: str, values: Sequence[Any] = ()) -> list[SweepRow]:
        """Without their specs, which are read when one is asked for: those of 4,000 take 30 MB."""
        found = self._store.tuples(f"SELECT id, status, created, conclusion, outline FROM sweep {where}", values)
        return rows.sweeps(
            found,
            driven=lambda id: bool(self.drivers(id)),
            spec=lambda id: self._store.rows("SELECT spec FROM sweep WHERE id = ?", (id,))[0][0],
        )

    # ----------------------------------------------------------------------------------------------------------------
    # Trials: what drivers ask for

    def request(self, sweep: str, wanted: Sequence[tuple[Trial, int, Role, str, str]], *, retry: bool = False) -> None:
        """Queue what is unknown, and remember why it is wanted. What is queued, running or finished stays so.

        Args:
            wanted: (trial, order, role, arm, share) each; the lowest order is claimed first.
            retry: queue failed trials again.
        """
        with self._store.transaction() as record:
            if self.sweep(sweep) is None:
                raise UsageError(f"there is no sweep {sweep}")
            there = {want for want in self._wanted(sweep, "AND open")}
            known = {trial.id: self._status(trial.id) for trial, *_ in wanted}
            wants = [Wanted(sweep, trial.id, order, role, arm, share) for trial, order, role, arm, share in wanted]
            new = {trial.id: trial for trial, *_ in wanted if known[trial.id] is None}
            requeued = ("cancelled", "failed") if retry else ("cancelled",)
            again = [id for id, status in known.items() if status in requeued]
            missing = [want for want in wants if want not in there]
            if new or again or missing:
                data = {
                    "sweep": sweep,
                    "trials": [{"id": id, **asdict(trial)} for id, trial in new.items()],
                    "wanted": [asdict(want) for want in missing],
                    "again": again,
                }
                record("trials_requested", data)

    def wanted(self, sweep: str) -> list[Wanted]:
        """What a sweep asked for, in its order."""
        return self._wanted(sweep)

    def _wanted(self, sweep: str, also: str = "") -> list[Wanted]:
        found = self._store.rows(f"SELECT * FROM wanted WHERE sweep = ? {also} ORDER BY ord, arm, role", (sweep,))
        return [rows.wanted(row) for row in found]

    def last_event(self) -> int:
        """The number of the newest event: as long as it stays, nothing has changed. Cheap to ask all the time."""
        return int(self._store.rows("SELECT coalesce(max(seq), 0) FROM event")[0][0])

    def trial(self, id: str) -> TrialRow | None:
        return next(iter(self._trials("WHERE id = ?", (id,))), None)

    def trials(
        self, sweep: str | None = None, status: TrialStatus | None = None, identity: str | None = None
    ) -> list[TrialRow]:
        """The trials that match all that is given, in the order in which they were asked for."""
        tests = [("id IN (SELECT trial FROM wanted WHERE sweep = ?)", sweep)]
        tests += [("status = ?", status), ("identity = ?", identity)]
        given = [(test, value) for test, value in tests if value is not None]
        where = "WHERE " + " AND ".join(test for test, _ in given) if given else ""
        return self._trials(f"{where} ORDER BY trial.seq, trial.rowid", [value for _, value in given])

    def brief_trials(self) -> list[BriefTrial]:
        """Every trial once for each sweep and arm that asked for it: sweep by sweep, each in its order."""
        asked = self._store.tuples(
            "SELECT sweep, arm, role, share, trial FROM wanted ORDER BY sweep, ord, arm, role, trial"
        )
        return rows.brief_trials(asked, self._store.tuples(f"SELECT {', '.join(rows.BRIEF)} FROM trial"))

    def _trials(self, where: str, values: Sequence[Any] = ()) -> list[TrialRow]:
        texts = "experiment.data AS experiment, result.data AS result"
        also = "JOIN experiment ON experiment.trial = trial.id LEFT JOIN result ON result.trial = trial.id"
        query = f"SELECT trial.*, {texts} FROM trial {also} {where}"
        return [rows.trial(row) for row in self._store.rows(query, values)]

    def tried(self, sweep: str | None = None) -> list[Json]:
        """Every trial once for each arm that asked for it, oldest first, as flat rows without the experiment: a
        ledger of 10,000 trials has 40 MB of those.

        Args:
            sweep: what this one asked for; None is what any did.
        """
        return rows.tried(self._asked(rows.TRIED, sweep))

    def listed(self, metrics: Sequence[str]) -> list[dict[str, Any]]:
        """As `tried`, with no more than a list shows: trial, sweep, arm, role, share, seed, status, the metrics, run,
        reason.

        Args:
            metrics: names; the value is None where a trial has none.
        """
        return rows.listed(self._asked(rows.LISTED), metrics)

    def _asked(self, columns: Sequence[str], sweep: str | None = None) -> list[tuple[Any, ...]]:
        """These columns, and the summary, of every trial once for each arm that asked for it, oldest first. They come
        nearly sorted: so Python sorts 50,000 in no time, where SQLite copies each row.

        Args:
            sweep: what this one asked for; None is what any did.
        """
        by = ("seq", "ord", "wanted.rowid")
        tables = "wanted JOIN trial" if sweep else "trial CROSS JOIN wanted"  # CROSS: walked in the order of trials
        where = "WHERE sweep = ?" if sweep else ""
        chosen = ", ".join((*by, *columns, "summary"))
        query = f"SELECT {chosen} FROM {tables} ON wanted.trial = trial.id {where}"
        return [row[len(by) :] for row in sorted(self._store.tuples(query, (sweep,) if sweep else ()))]

    def _status(self, trial: str) -> TrialStatus | None:
        found = self._store.rows("SELECT status FROM trial WHERE id = ?", (trial,))
        return found[0][0] if found else None

    def curve(self, trial: str) -> list[Json]:
        """The points of a finished trial's curve: step, tokens, val_loss, train_loss, ..."""
        found = self._store.rows("SELECT data FROM curve WHERE trial = ?", (trial,))
        return list(json.loads(found[0][0])) if found else []

    # ----------------------------------------------------------------------------------------------------------------
    # Claims: what workers do

    def claim(self, worker: str, sweep: str | None = None) -> Attempt | None:
        """Take the next trial of a sweep, or of the oldest one that has any; None if nothing is queued. Trials whose
        worker is dead come back first."""
        self.reclaim()
        with self._store.transaction() as record:
            found = self._trials(
                "WHERE id = (SELECT wanted.trial FROM trial AS queued"
                " JOIN wanted ON wanted.trial = queued.id AND wanted.open JOIN sweep ON sweep.id = wanted.sweep"
                f" WHERE queued.status = 'queued' AND {'sweep.id = ?' if sweep else '? IS NULL'}"
                " ORDER BY sweep.seq, wanted.ord LIMIT 1)",
                (sweep,),
            )
            if not found:
                return None
            row = found[0]
            process = asdict(this_process())
            data = {"trial": row.id, "number": row.attempts + 1, "worker": worker, "process": process}
            attempt = Attempt(record("trial_claimed", data), row.trial, row.attempts + 1, row.run)
            self._beat(attempt)
        return attempt

    def renew(self, attempt: Attempt) -> bool:
        """A heartbeat. False: the claim was taken over, so stop."""
        if not self._holds(attempt):
            return False
        self._beat(attempt)
        return True

    def finish(self, attempt: Attempt, result: Json, curve: Sequence[Json] = ()) -> None:
        """The trial has its result. To say so twice is no fault.

        Raises:
            LostClaim: the claim was taken over.
        """
        data = {"trial": attempt.trial.id, "attempt": attempt.id, "result": dict(result), "curve": list(curve)}
        self._end("trial_finished", attempt, "finished", data)

    def fail(self, attempt: Attempt, reason: str, retry: bool = False) -> None:
        """The attempt ended without a result. With `retry` the trial is queued again, up to three failures in all.

        Raises:
            LostClaim: the claim was taken over.
        """
        data = {"trial": attempt.trial.id, "attempt": attempt.id, "reason": reason, "retry": retry}
        self._end("trial_failed", attempt, "failed", data)

    def release(self, attempt: Attempt) -> None:
        """Give a trial back unfinished, as a worker that was asked to stop does. It does not count as a failure."""
        if self._holds(attempt):
            self._take_back(attempt.id, attempt.trial.id, "given back", counts=False)

    def release_all(self) -> None:
        """Give back whatever this process has claimed, as one does that leaves."""
        for row in self._running():
            if row["process"] == _process():
                self._take_back(row["attempt"], row["trial"], "given back", counts=False)

    def reclaim(self) -> int:
        """Queue again what is claimed by processes that are dead, or were silent for too long; how many."""
        is_gone = cache(Process.is_gone)  # one process may hold many
        lost = [(row, rows.holder(row).lost_claim(self.lease_seconds, is_gone)) for row in self._running()]
        return sum(self._take_back(row["attempt"], row["trial"], reason) for row, reason in lost if reason)

    def holders(self) -> dict[str, lease.Holder]:
        """Who trains what now: by the trial's id."""
        return {row["trial"]: rows.holder(row) for row in self._running()}

    def waiting_for(self, holder: lease.Holder) -> str:
        """Which process holds what another waits for, and for how long, in words."""
        silent = holder.beat.age
        left = max(0.0, self.lease_seconds - silent)
        heard = f"was last heard of {silent:.0f} s ago"
        return f"{holder} has it, and {heard}; without a sign it is taken over in {left:.0f} s"

    def _running(self) -> list[Row]:
        return self._store.rows(
            "SELECT trial, worker, process, heartbeat.* FROM attempt"
            " JOIN heartbeat ON heartbeat.attempt = attempt.id WHERE status = 'running'"
        )

    def _take_back(self, attempt: int, trial: str, reason: str, counts: bool = True) -> bool:
        with self._store.transaction() as record:
            running = self._attempt_status(attempt) == "running"  # or another process was faster
            if running:
                record("claim_lost", {"trial": trial, "attempt": attempt, "reason": reason, "counts": counts})
        return running

    def _end(self, kind: str, attempt: Attempt, status: str, data: Json) -> None:
        with self._store.transaction() as record:
            now = self._attempt_status(attempt.id)
            if now == "running":
                record(kind, data)
            elif now != status:
                raise LostClaim(attempt)

    def _holds(self, attempt: Attempt) -> bool:
        return self._attempt_status(attempt.id) == "running"

    def _attempt_status(self, attempt: int) -> str:
        found = self._store.rows("SELECT status FROM attempt WHERE id = ?", (attempt,))
        return found[0][0] if found else ""

    def _beat(self, attempt: Attempt) -> None:
        beat = (attempt.id, *astuple(lease.Beat.now()))
        self._store.touch("INSERT OR REPLACE INTO heartbeat VALUES (?, ?, ?, ?)", beat)


def _sweep_id(spec: Json) -> str:
    return digest({key: value for key, value in spec.items() if key not in MEASURED})[:12]


def _process() -> str:
    return encode(asdict(this_process()))
