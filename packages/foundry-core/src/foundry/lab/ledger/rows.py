"""Rows of the tables as records."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property, lru_cache
from sqlite3 import Row
from typing import Any

from foundry.core.contracts import UsageError
from foundry.core.system.processes import Process
from foundry.lab.ledger.lease import Beat, Holder
from foundry.lab.ledger.records import (
    Decision,
    Evidence,
    ExperimentRow,
    Generation,
    Refusal,
    SweepRow,
    SweepStatus,
    Terms,
    Trial,
    TrialRow,
    Wanted,
)


@contextmanager
def many() -> Iterator[None]:
    """While many rows are made, of which none is garbage: to look for some takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Text(Mapping[str, Any]):
    """JSON that is read when somebody asks for what is in it: who lists 4,000 sweeps reads few of their specs."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.text)
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
        return self.text


def trial(row: Row) -> TrialRow:
    what = Trial(
        *(row["identity"], row["seed"], row["code"], row["data"], json.loads(row["experiment"])),
        tasks=tuple(json.loads(row["tasks"])),
    )
    result = None if row["result"] is None else json.loads(row["result"])
    state = (row["status"], row["attempts"], row["run"], result, row["reason"], row["created"], row["ended"])
    return TrialRow(row["id"], what, *state)


def brief_trial(row: Row) -> TrialRow:
    """A trial without its experiment, and with what is asked of many results at once."""
    what = Trial(row["identity"], row["seed"], row["code"], row["data"], {})
    summary = None if row["summary"] is None else json.loads(row["summary"])
    state = (row["status"], row["attempts"], row["run"], summary, row["reason"], row["created"], row["ended"])
    return TrialRow(row["id"], what, *state)


def sweep(row: Row, driven: bool) -> SweepRow:
    status: SweepStatus = row["status"] if row["status"] == "finished" or driven else "interrupted"
    conclusion = None if row["conclusion"] is None else Text(row["conclusion"])
    return SweepRow(row["id"], status, Text(row["spec"]), row["created"], conclusion, Text(row["outline"]))


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
    mutations = tuple((type, value) for type, value in json.loads(row["mutations"]))
    changes = tuple(json.loads(row["changes"]))
    experiment = json.loads(row["experiment"])
    return ExperimentRow(row["identity"], experiment, row["parent"], mutations, changes, row["created"])


def refusal(row: Row) -> Refusal:
    return Refusal(row["sweep"], row["arm"], row["reason"], tuple(json.loads(row["changes"])), row["created"])


def evidence(row: Row) -> Evidence:
    terms = json.loads(row["terms"])
    lists = {"differences": tuple(json.loads(row["differences"])), "terms": None if terms is None else Terms(**terms)}
    return Evidence(**dict(row) | lists)


def decision(row: Row) -> Decision:
    return Decision(**_less(row, "seq") | {"rule": json.loads(row["rule"])})


def generation(row: Row) -> Generation:
    lists = {"experiment": json.loads(row["experiment"]), "ancestry": tuple(json.loads(row["ancestry"]))}
    return Generation(**dict(row) | lists | {"rendered": bool(row["rendered"])})


def decision_field(name: str) -> str:
    """`name`, which is one of Decision's fields and so may stand in a query."""
    names = [field.name for field in fields(Decision)]
    if name not in names:
        raise UsageError(f"a decision has no {name!r}", f"it has {', '.join(names)}")
    return name


def _less(row: Row, column: str) -> dict[str, Any]:
    return {key: row[key] for key in row.keys() if key != column}  # noqa: SIM118 - a Row iterates over its values
