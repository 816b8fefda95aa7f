"""The ledger of a project: what was tried, with what result, and which baseline holds.

    with Ledger.open(project) as ledger:
        ledger.request(sweep, wanted)            # a driver asks
        attempt = ledger.claim("worker 1")       # a worker takes
        ledger.finish(attempt, result, curve)

Every change of state is one event in one transaction. The rest of Foundry knows this class and the plain values of
`records`, never SQL: a database on a server would be another class with these methods.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from foundry.core.contracts import UsageError
from foundry.core.ledger import lease, rows
from foundry.core.ledger.journal import encode
from foundry.core.ledger.records import (
    Attempt,
    Config,
    Decision,
    Evidence,
    Generation,
    Json,
    LostClaim,
    Noise,
    Refusal,
    Role,
    StaleBaseline,
    SweepRow,
    SweepStatus,
    Trial,
    TrialRow,
    TrialStatus,
    Wanted,
    digest,
)
from foundry.core.ledger.store import Store

FOLDER = ".foundry"
MEASURED = ("sigma", "df", "evidence")
"""Keys of a sweep's spec that were known when it started, and do not make it another sweep."""


class Ledger:
    """Opened by `Ledger.open`. One object serves all threads of a process, and goes on working after a fork."""

    def __init__(self, project: Path, store: Store, lease_seconds: float) -> None:
        self.project = project
        self._store = store
        self._lease_seconds = lease_seconds

    @classmethod
    def open(
        cls,
        project: Path,
        *,
        note: Callable[[str], None] = lambda text: None,
        lease_seconds: float = lease.LEASE_SECONDS,
    ) -> Ledger:
        """The ledger of a project folder, made if there is none.

        Args:
            note: told when the database was lost or behind, and was made anew from the events.
            lease_seconds: without a heartbeat for so long, a claim is taken over.

        Raises:
            InvalidData: ledger.db or events.jsonl is damaged, somebody else's, or of another version.
            EnvironmentFailure: the folder cannot be written, or the disk is full.
        """
        project = Path(project).resolve()
        return cls(project, Store(project / FOLDER, note), lease_seconds)

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------------------------
    # Sweeps

    def start_sweep(self, spec: Json) -> str:
        """The id of the sweep that `spec` describes; the same spec is the same sweep, whose first spec stays. The
        calling process counts as its driver until it dies or leaves."""
        id = digest({key: value for key, value in spec.items() if key not in MEASURED})[:12]
        with self._store.transaction() as record:
            if self.sweep(id) is None:
                record("sweep_started", {"id": id, "spec": dict(spec)})
            self._store.touch("INSERT OR IGNORE INTO driver VALUES (?, ?)", (id, _process()))
        return id

    def leave_sweep(self, id: str) -> None:
        """This process drives the sweep no longer: unless another does, it is interrupted."""
        self._store.touch("DELETE FROM driver WHERE sweep = ? AND process = ?", (id, _process()))

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
        drivers: dict[str, list[lease.Process]] = {}
        for sweep, process in self._store.rows("SELECT sweep, process FROM driver"):
            drivers.setdefault(sweep, []).append(lease.Process(**json.loads(process)))
        return [
            rows.sweep(row, driven=not all(process.is_gone() for process in drivers.get(row["id"], [])))
            for row in self._store.rows(f"SELECT * FROM sweep {where}", values)
        ]

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

    def cancel(self, sweep: str, trials: Iterable[str]) -> None:
        """This sweep does not want these trials any more. Those still queued, and wanted by no other, are cancelled."""
        with self._store.transaction() as record:
            open = {want.trial for want in self._wanted(sweep, "AND open")}
            ids = [id for id in dict.fromkeys(trials) if id in open and self._status(id) == "queued"]
            if ids:
                record("trials_cancelled", {"sweep": sweep, "trials": ids})

    def wanted(self, sweep: str) -> list[Wanted]:
        """What a sweep asked for, in its order."""
        return self._wanted(sweep)

    def _wanted(self, sweep: str, also: str = "") -> list[Wanted]:
        found = self._store.rows(f"SELECT * FROM wanted WHERE sweep = ? {also} ORDER BY ord, arm, role", (sweep,))
        return [rows.wanted(row) for row in found]

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
        return self._trials(f"{where} ORDER BY seq, rowid", [value for _, value in given])

    def _trials(self, where: str, values: Sequence[Any] = ()) -> list[TrialRow]:
        return [rows.trial(row) for row in self._store.rows(f"SELECT * FROM trial {where}", values)]

    def _status(self, trial: str) -> TrialStatus | None:
        found = self._store.rows("SELECT status FROM trial WHERE id = ?", (trial,))
        return found[0][0] if found else None

    def curve(self, trial: str) -> list[Json]:
        """The points of a finished trial's curve: step, tokens, val_loss, train_loss, ..."""
        found = self._store.rows("SELECT data FROM curve WHERE trial = ? ORDER BY point", (trial,))
        return [json.loads(row[0]) for row in found]

    # ----------------------------------------------------------------------------------------------------------------
    # Claims: what workers do

    def claim(self, worker: str, sweep: str | None = None) -> Attempt | None:
        """Take the next trial of a sweep, or of the oldest one that has any; None if nothing is queued. Trials whose
        worker is dead come back first."""
        self.reclaim()
        with self._store.transaction() as record:
            found = self._store.rows(
                "SELECT * FROM trial WHERE id = (SELECT wanted.trial FROM trial AS queued"
                " JOIN wanted ON wanted.trial = queued.id AND wanted.open JOIN sweep ON sweep.id = wanted.sweep"
                f" WHERE queued.status = 'queued' AND {'sweep.id = ?' if sweep else '? IS NULL'}"
                " ORDER BY sweep.seq, wanted.ord LIMIT 1)",
                (sweep,),
            )
            if not found:
                return None
            row = rows.trial(found[0])
            process = asdict(lease.this_process())
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
            self._lose(attempt.id, attempt.trial.id, "given back", counts=False)

    def reclaim(self) -> int:
        """Queue again what is claimed by processes that are dead, or were silent for too long; how many."""
        running = self._store.rows(
            "SELECT attempt.id, trial, process, heartbeat.boot, heartbeat.clock, heartbeat.wall FROM attempt"
            " JOIN heartbeat ON heartbeat.attempt = attempt.id WHERE status = 'running'"
        )
        gone = {text for text in {row["process"] for row in running} if lease.Process(**json.loads(text)).is_gone()}
        lost = 0
        for row in running:
            silent = lease.age(row["boot"], row["clock"], row["wall"])
            if row["process"] in gone:
                lost += self._lose(row["id"], row["trial"], "its process is gone")
            elif silent > self._lease_seconds:
                lost += self._lose(row["id"], row["trial"], f"no heartbeat for {silent:.0f} s")
        return lost

    def _lose(self, attempt: int, trial: str, reason: str, counts: bool = True) -> bool:
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
        beat = (attempt.id, lease.this_process().boot, lease.clock(), time.time())
        self._store.touch("INSERT OR REPLACE INTO heartbeat VALUES (?, ?, ?, ?)", beat)

    # ----------------------------------------------------------------------------------------------------------------
    # What was learnt

    def record_config(
        self,
        identity: str,
        experiment: Json,
        parent: str | None,
        mutations: Sequence[tuple[str, str]],
        changes: Sequence[str],
    ) -> None:
        """An experiment that takes part, and how it came about. The first record of an identity stays."""
        lists = {"mutations": [list(each) for each in mutations], "changes": list(changes)}
        data = {"identity": identity, "experiment": dict(experiment), "parent": parent, **lists}
        with self._store.transaction() as record:
            if self.config(identity) is None:
                record("config_recorded", data)

    def config(self, identity: str) -> Config | None:
        found = self._store.rows("SELECT * FROM config WHERE identity = ?", (identity,))
        return rows.config(found[0]) if found else None

    def configs(self) -> list[Config]:
        """Every experiment that took part, oldest first."""
        return [rows.config(row) for row in self._store.rows("SELECT * FROM config ORDER BY created, rowid")]

    def record_refusal(self, sweep: str, arm: str, reason: str, changes: Sequence[str] = ()) -> None:
        """An arm that cannot be trained, once per sweep and arm."""
        with self._store.transaction() as record:
            if all(refusal.arm != arm for refusal in self.refusals(sweep)):
                record("arm_refused", {"sweep": sweep, "arm": arm, "reason": reason, "changes": list(changes)})

    def refusals(self, sweep: str | None = None) -> list[Refusal]:
        found = self._store.rows("SELECT * FROM refusal WHERE ? IN (sweep, '') ORDER BY seq", (sweep or "",))
        return [rows.refusal(row) for row in found]

    def record_noise(self, noise: Noise) -> None:
        """A measurement of the spread between seeds. One with the same figures, or of the same group with no more
        runs than before, is the same measurement."""
        group = noise.group or digest(noise.sigma, noise.df, noise.runs)[:16]
        with self._store.transaction() as record:
            there = [n.runs for n in self._noise(noise.context) if (n.metric, n.group) == (noise.metric, group)]
            if not there or there[0] < noise.runs:
                data = asdict(replace(noise, group=group))
                del data["created"]
                record("noise_measured", data)

    def noise(self, context: str) -> Noise | None:
        """Everything measured in a context, pooled: sigma^2 is the mean of the variances, weighted by their degrees of
        freedom. None: nothing was measured there."""
        parts = self._noise(context)
        df = sum(part.df for part in parts)
        if not df:
            return None
        sigma = math.sqrt(sum(part.df * part.sigma**2 for part in parts) / df)
        runs, newest = sum(part.runs for part in parts), max(part.created for part in parts)
        return Noise(parts[0].metric, context, sigma, df, runs, newest)

    def noises(self) -> list[Noise]:
        """What `noise` says of every context that was measured in, oldest first."""
        contexts = self._store.rows("SELECT context FROM noise GROUP BY context ORDER BY min(created)")
        return [noise for row in contexts if (noise := self.noise(row[0])) is not None]

    def _noise(self, context: str) -> list[Noise]:
        found = self._store.rows('SELECT * FROM noise WHERE context = ? ORDER BY created, "group"', (context,))
        return [Noise(**dict(row)) for row in found]

    def evidence(self, generation: int, baseline: str, candidate: str, metric: str) -> Evidence:
        """What is known of a pair; no differences where nothing is."""
        found = self._store.rows(
            "SELECT differences FROM evidence WHERE (generation, baseline, candidate, metric) = (?, ?, ?, ?)",
            (generation, baseline, candidate, metric),
        )
        differences = tuple(json.loads(found[0][0])) if found else ()
        return Evidence(generation, baseline, candidate, metric, differences)

    def add_evidence(self, evidence: Evidence) -> None:
        """Remember more differences of a pair; no more than there are already change nothing."""
        pair = (evidence.generation, evidence.baseline, evidence.candidate, evidence.metric)
        with self._store.transaction() as record:
            if len(evidence.differences) > len(self.evidence(*pair).differences):
                record("evidence_grew", asdict(evidence))

    # ----------------------------------------------------------------------------------------------------------------
    # Decisions and baselines

    def decide(self, decision: Decision) -> None:
        """Keep a decision. The first one of an id stays."""
        data = asdict(decision)
        del data["created"]
        with self._store.transaction() as record:
            if self.decision(decision.id) is None:
                record("decided", data)

    def decision(self, id: str) -> Decision | None:
        return next(iter(self.decisions(id=id)), None)

    def decisions(self, **where: Any) -> list[Decision]:
        """The decisions whose fields have these values, oldest first: `decisions(sweep=..., verdict="reject")`."""
        tests = " AND ".join(f"{rows.decision_field(name)} = ?" for name in where) or "1"
        found = self._store.rows(f"SELECT * FROM decision WHERE {tests} ORDER BY seq", list(where.values()))
        return [rows.decision(row) for row in found]

    def baseline(self) -> Generation | None:
        """The newest generation."""
        found = self._store.rows("SELECT * FROM generation ORDER BY number DESC LIMIT 1")
        return rows.generation(found[0]) if found else None

    def generations(self) -> list[Generation]:
        """The whole lineage, oldest first."""
        return [rows.generation(row) for row in self._store.rows("SELECT * FROM generation ORDER BY number")]

    def promote(self, expected: int | None, new: Generation) -> Generation:
        """Make `new` the baseline if generation `expected` still is (None: if there is none yet). A decision that was
        promoted already gives the same generation again.

        Args:
            new: its number is the next one, unless it brings a greater one; its predecessor is `expected`; its time is
                now, unless it brings one.

        Raises:
            StaleBaseline: another generation is the baseline now.
        """
        with self._store.transaction() as record:
            lineage = self.generations()
            for earlier in lineage:
                if new.decision and earlier.decision == new.decision:
                    return earlier
            current = lineage[-1].number if lineage else None
            if current != expected:
                raise StaleBaseline(expected, current)
            number = max(new.number, 0 if current is None else current + 1)
            record("baseline_set", asdict(replace(new, number=number, previous=current)))
            return self.generations()[-1]

    def rendered(self, number: int) -> None:
        """experiments/baseline.yaml holds this generation: what differs from it from now on is an edit by hand."""
        with self._store.transaction() as record:
            record("baseline_rendered", {"number": number})


def _process() -> str:
    return encode(asdict(lease.this_process()))
