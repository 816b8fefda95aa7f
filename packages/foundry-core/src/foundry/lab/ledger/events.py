"""What each kind of event does to the tables. A projection depends on the event and the tables alone, so that replaying
all events makes the same tables again.

    ledger_created, event_lost
    sweep_started, sweep_finished, trials_requested
    trial_claimed, trial_finished, trial_failed, claim_lost
    config_recorded, arm_refused, noise_measured, evidence_grew, decided, baseline_set, baseline_rendered
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from foundry.core.contracts import InvalidData
from foundry.lab.ledger.journal import Event, encode
from foundry.lab.ledger.lease import MAX_LOST_CLAIMS

Data: TypeAlias = Mapping[str, Any]
Projection: TypeAlias = Callable[[sqlite3.Connection, Event, Data], None]

MAX_FAILURES = 3  # attempts that ended with a reason, before the trial has failed for good

SUMMARY = ("metrics", "higher_is_better", "step", "tokens", "flops", "training_seconds")
"""Of a result: what is asked about many trials at once."""

OUTLINE = ("arm", "family", "identity", "mutations", "changes", "flops")
"""Of an entry of a sweep: all but its experiment, which is most of it."""

RUNS = ".foundry/trials"  # the run folders of trials, in the project

_PROJECTIONS: dict[str, Projection] = {}


def project(db: sqlite3.Connection, event: Event) -> None:
    """Bring the tables to the state after `event`, inside the transaction of the caller.

    Raises:
        InvalidData: no event of this kind is known: another version of Foundry wrote it.
    """
    if event.kind not in _PROJECTIONS:
        raise InvalidData(
            f"the ledger holds an event of an unknown kind: {event.kind}", "use the Foundry that wrote it"
        )
    db.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?)", (*event, event.checksum))
    _PROJECTIONS[event.kind](db, event, json.loads(event.data))


def _projection(function: Projection) -> Projection:
    _PROJECTIONS[function.__name__] = function
    return function


# --------------------------------------------------------------------------------------------------------------------
# The ledger itself, sweeps, and what they want


@_projection
def ledger_created(db: sqlite3.Connection, event: Event, data: Data) -> None:
    """Nothing to do: the event's random id tells two ledgers apart."""


@_projection
def event_lost(db: sqlite3.Connection, event: Event, data: Data) -> None:
    """In the place of one that was damaged in both copies. What it did is not known, and what follows goes on."""


@_projection
def sweep_started(db: sqlite3.Connection, event: Event, data: Data) -> None:
    spec = data["spec"]
    entries = [{key: each[key] for key in OUTLINE if key in each} for each in spec.get("entries", ())]
    outline = encode({**spec, "entries": entries} if entries else spec)
    row = (data["id"], event.seq, "running", event.time, outline, None, encode(spec))
    db.execute("INSERT INTO sweep VALUES (?, ?, ?, ?, ?, ?, ?)", row)


@_projection
def sweep_finished(db: sqlite3.Connection, event: Event, data: Data) -> None:
    update = "UPDATE sweep SET status = 'finished', conclusion = ? WHERE id = ?"
    db.execute(update, (encode(data["conclusion"]), data["id"]))
    db.execute("UPDATE wanted SET open = 0 WHERE sweep = ?", (data["id"],))
    _cancel_unwanted(db, event)


@_projection
def trials_requested(db: sqlite3.Connection, event: Event, data: Data) -> None:
    for trial in data["trials"]:
        db.execute(
            "INSERT INTO trial (id, seq, identity, seed, code, data, tasks, run, status, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?)",
            (
                *(trial["id"], event.seq, trial["identity"], trial["seed"], trial["code"], trial["data"]),
                *(encode(trial["tasks"]), f"{RUNS}/{trial['id']}", event.time),
            ),
        )
        db.execute("INSERT INTO experiment VALUES (?, ?)", (trial["id"], encode(trial["experiment"])))
    for want in data["wanted"]:
        row = (data["sweep"], want["trial"], want["arm"], want["role"], want["share"], want["order"])
        db.execute("INSERT OR REPLACE INTO wanted VALUES (?, ?, ?, ?, ?, ?, 1)", row)
    again = "UPDATE trial SET status = 'queued', failures = 0, losses = 0, reason = '', ended = NULL WHERE id = ?"
    db.executemany(again, [(id,) for id in data["again"]])


def _cancel_unwanted(db: sqlite3.Connection, event: Event) -> None:
    """A queued trial that no sweep wants any more is cancelled; one that another sweep wants is not."""
    db.execute(
        "UPDATE trial SET status = 'cancelled', ended = ? WHERE status = 'queued'"
        " AND NOT EXISTS (SELECT 1 FROM wanted WHERE wanted.trial = trial.id AND wanted.open)",
        (event.time,),
    )


# --------------------------------------------------------------------------------------------------------------------
# Attempts. The seq of the claim is the attempt's id, and the holder is the process that made the last one.


@_projection
def trial_claimed(db: sqlite3.Connection, event: Event, data: Data) -> None:
    attempt = (event.seq, data["trial"], data["number"], data["worker"], encode(data["process"]), event.time)
    db.execute(
        "INSERT INTO attempt (id, trial, number, worker, process, status, began) VALUES (?, ?, ?, ?, ?, 'running', ?)",
        attempt,
    )
    update = "UPDATE trial SET status = 'running', attempt = ?, attempts = ? WHERE id = ?"
    db.execute(update, (event.seq, data["number"], data["trial"]))


@_projection
def trial_finished(db: sqlite3.Connection, event: Event, data: Data) -> None:
    _end_attempt(db, event, data["attempt"], "finished")
    update = "UPDATE trial SET status = 'finished', summary = ?, reason = '', ended = ? WHERE id = ?"
    summary = {key: data["result"][key] for key in SUMMARY if key in data["result"]}
    db.execute(update, (encode(summary), event.time, data["trial"]))
    for table, value in (("result", data["result"]), ("curve", data["curve"])):
        db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (data["trial"], encode(value)))


@_projection
def trial_failed(db: sqlite3.Connection, event: Event, data: Data) -> None:
    """The attempt ended with a reason."""
    _end_attempt(db, event, data["attempt"], "failed", data["reason"])
    db.execute("UPDATE trial SET failures = failures + 1 WHERE id = ?", (data["trial"],))
    _queue_or_give_up(db, event, data, data["retry"] and _count(db, "failures", data) < MAX_FAILURES)


@_projection
def claim_lost(db: sqlite3.Connection, event: Event, data: Data) -> None:
    """The attempt's process is gone or silent, or gave the trial back."""
    _end_attempt(db, event, data["attempt"], "lost", data["reason"])
    db.execute("UPDATE trial SET losses = losses + ? WHERE id = ?", (int(data["counts"]), data["trial"]))
    _queue_or_give_up(db, event, data, _count(db, "losses", data) < MAX_LOST_CLAIMS)


def _count(db: sqlite3.Connection, column: str, data: Data) -> int:
    """Of the event's trial; 0 where the event that asked for it was lost."""
    found = db.execute(f"SELECT {column} FROM trial WHERE id = ?", (data["trial"],)).fetchone()
    return int(found[0]) if found else 0


def _end_attempt(db: sqlite3.Connection, event: Event, attempt: int, status: str, reason: str = "") -> None:
    update = "UPDATE attempt SET status = ?, reason = ?, ended = ? WHERE id = ?"
    db.execute(update, (status, reason, event.time, attempt))
    db.execute("DELETE FROM heartbeat WHERE attempt = ?", (attempt,))


def _queue_or_give_up(db: sqlite3.Connection, event: Event, data: Data, again: bool) -> None:
    status, ended = ("queued", None) if again else ("failed", event.time)
    update = "UPDATE trial SET status = ?, reason = ?, ended = ? WHERE id = ?"
    db.execute(update, (status, data["reason"], ended, data["trial"]))
    if again:
        _cancel_unwanted(db, event)


# --------------------------------------------------------------------------------------------------------------------
# What was learnt


@_projection
def config_recorded(db: sqlite3.Connection, event: Event, data: Data) -> None:
    lists = (encode(data["mutations"]), encode(data["changes"]))
    row = (data["identity"], encode(data["experiment"]), data["parent"], *lists, event.time)
    db.execute("INSERT INTO config VALUES (?, ?, ?, ?, ?, ?)", row)


@_projection
def arm_refused(db: sqlite3.Connection, event: Event, data: Data) -> None:
    row = (event.seq, data["sweep"], data["arm"], data["reason"], encode(data["changes"]), event.time)
    db.execute("INSERT INTO refusal VALUES (?, ?, ?, ?, ?, ?)", row)


@_projection
def noise_measured(db: sqlite3.Connection, event: Event, data: Data) -> None:
    row = {**data, "created": event.time}
    _insert(db, "noise", row)


@_projection
def evidence_grew(db: sqlite3.Connection, event: Event, data: Data) -> None:
    lists = {"differences": encode(data["differences"]), "terms": encode(data["terms"])}
    _insert(db, "evidence", {**data, **lists})


@_projection
def decided(db: sqlite3.Connection, event: Event, data: Data) -> None:
    _insert(db, "decision", {**data, "seq": event.seq, "rule": encode(data["rule"]), "created": event.time})


@_projection
def baseline_set(db: sqlite3.Connection, event: Event, data: Data) -> None:
    lists = {"experiment": encode(data["experiment"]), "ancestry": encode(data["ancestry"])}
    _insert(db, "generation", {**data, **lists, "created": data["created"] or event.time})


@_projection
def baseline_rendered(db: sqlite3.Connection, event: Event, data: Data) -> None:
    db.execute("UPDATE generation SET rendered = 1 WHERE number = ?", (data["number"],))


def _insert(db: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    """Insert a row, or replace the one with the same key."""
    columns = ", ".join(f'"{column}"' for column in row)
    values = ", ".join("?" * len(row))
    db.execute(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({values})", tuple(row.values()))
