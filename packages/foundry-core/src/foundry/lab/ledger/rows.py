"""Rows of the tables as records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property, lru_cache, partial
from sqlite3 import Row
from sys import intern
from typing import Any

from foundry.core.contracts import UsageError
from foundry.core.system.processes import Process
from foundry.lab.ledger.lease import Beat, Holder
from foundry.lab.ledger.records import (
    BriefTrial,
    Decision,
    Evidence,
    ExperimentRow,
    Generation,
    Json,
    Refusal,
    SweepStatus,
    TaskSpec,
    Trial,
    TrialRow,
    Wanted,
)
from foundry.lab.ledger.sweep_row import SweepRow, stack_from_json


def dicts(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Each row by the names of its columns. `dict(row)` looks for every name in every row: four times as long."""
    names = rows[0].keys() if rows else []
    return (dict(zip(names, row, strict=True)) for row in rows)


class Text(Mapping[str, Any]):
    """JSON that is read when what is in it is asked for: a list of 4,000 sweeps needs few of their specs."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    @cached_property
    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self._read())
        return values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


def trial(row: Row) -> TrialRow:
    what = Trial(
        *(row["identity"], row["seed"], row["code"], row["data"], json.loads(row["experiment"])),
        tasks=tuple(map(TaskSpec.from_json, json.loads(row["tasks"]))),
    )
    result = None if row["result"] is None else json.loads(row["result"])
    state = (row["status"], row["attempts"], row["run"], result, row["reason"], row["created"], row["ended"])
    return TrialRow(row["id"], what, *state)


BRIEF = ("id", "seed", "status", "attempts", "reason", "summary")
TRIED = ("id", "sweep", "arm", "role", "share", "seed", "status", "attempts", "identity", "run", "reason", "created")
LISTED = ("id", "sweep", "arm", "role", "share", "seed", "status", "run", "reason")
"""Columns of trials and of what wants them."""


def brief_trials(asked: Sequence[tuple[Any, ...]], found: Sequence[tuple[Any, ...]]) -> list[BriefTrial]:
    """Each as often as it was asked for. Their words are few, and each is kept once.

    Args:
        asked: sweep, arm, role, share, trial.
        found: the columns BRIEF.
    """
    once: Callable[[Any], Any] = intern
    nothing: dict[str, Any] = {}
    trials = {}
    for (id, seed, status, attempts, reason, _), summary in zip(found, _last_json(found), strict=True):
        get = summary.get
        trials[id] = (
            *(id, seed, once(status), attempts, reason, get("metrics", nothing), get("higher_is_better", ())),
            *(get("step"), get("tokens"), get("flops"), get("training_seconds")),
        )
    return [
        BriefTrial._make((once(sweep), once(arm), once(role), once(share), *trials[trial]))
        for sweep, arm, role, share, trial in asked
    ]


def tried(found: Sequence[tuple[Any, ...]]) -> list[Json]:
    """Trials as flat rows, with their metrics.

    Args:
        found: the columns TRIED, then the summary.
    """
    summaries = _last_json(found)
    return [
        dict(zip(TRIED, row, strict=False), metrics=summary.get("metrics", {}))
        for row, summary in zip(found, summaries, strict=True)
    ]


def listed(found: Sequence[tuple[Any, ...]], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Trials as a list shows them: some metrics stand behind the status, None where a trial has none.

    Args:
        found: the columns LISTED, then the summary.
    """
    nothing: dict[str, Any] = {}
    return [
        {
            "trial": id,
            "sweep": sweep,
            "arm": arm,
            "role": role,
            "share": share,
            "seed": seed,
            "status": status,
            **{name: measured.get(name) for name in metrics},
            "run": run,
            "reason": reason,
        }
        for (id, sweep, arm, role, share, seed, status, run, reason, _), summary in zip(
            found, _last_json(found), strict=True
        )
        for measured in (summary.get("metrics", nothing),)
    ]


def _last_json(found: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """What the last column has of each row, {} for NULL. Read as one text: that takes a third of the time, and the
    keys are there once, not 50,000 times."""
    values: list[dict[str, Any]] = json.loads(f"[{','.join([row[-1] or '{}' for row in found])}]")
    return values


def sweeps(
    found: Sequence[tuple[Any, ...]], driven: Callable[[str], bool], spec: Callable[[str], str]
) -> list[SweepRow]:
    """Sweeps, their specs unread.

    Args:
        found: id, status, created, conclusion, outline.
        driven: whether a process drives a sweep now.
        spec: the text of its spec.
    """
    sweeps = []
    for (id, status, created, conclusion, _), outline in zip(found, _last_json(found), strict=True):
        now: SweepStatus = status if status == "finished" or driven(id) else "interrupted"
        end = None if conclusion is None else Text(partial(str, conclusion))
        sweeps.append(SweepRow(id, now, Text(partial(spec, id)), created, end, outline))
    return sweeps


def holder(row: Row) -> Holder:
    name = row["worker"] if "worker" in row.keys() else ""  # noqa: SIM118 - a Row iterates over its values
    return Holder(_process(row["process"]), Beat(row["boot"], row["clock"], row["wall"]), name)


@lru_cache(maxsize=256)
def _process(text: str) -> Process:
    """One may hold many things, and is looked at before every claim."""
    return Process(**json.loads(text))


def wanted(row: Row) -> Wanted:
    return Wanted(row["sweep"], row["trial"], row["ord"], row["role"], row["arm"], row["share"])


def config(row: Row) -> ExperimentRow:
    mutations = stack_from_json(json.loads(row["mutations"]))
    changes = tuple(json.loads(row["changes"]))
    experiment = json.loads(row["experiment"])
    return ExperimentRow(row["identity"], experiment, row["parent"], mutations, changes, row["created"])


def refusal(row: Row) -> Refusal:
    return Refusal(row["sweep"], row["arm"], row["reason"], tuple(json.loads(row["changes"])), row["created"])


def evidence(row: Row) -> Evidence:
    return Evidence.from_json(dict(row) | {name: json.loads(row[name]) for name in ("differences", "terms")})


def decisions(rows: Sequence[Row]) -> list[Decision]:
    """Their rules are few, and each is read once."""
    rules = {text: json.loads(text) for text in {row["rule"] for row in rows}}
    found = []
    for values in dicts(rows):
        del values["seq"]
        values["rule"] = rules[values["rule"]]
        found.append(Decision(**values))
    return found


def generation(row: Row) -> Generation:
    lists = {"experiment": json.loads(row["experiment"]), "ancestry": tuple(json.loads(row["ancestry"]))}
    return Generation(**dict(row) | lists | {"rendered": bool(row["rendered"])})


def decision_field(name: str) -> str:
    """`name`, which is one of Decision's fields and so may stand in a query."""
    names = [field.name for field in fields(Decision)]
    if name not in names:
        raise UsageError(f"a decision has no {name!r}", f"it has {', '.join(names)}")
    return name
