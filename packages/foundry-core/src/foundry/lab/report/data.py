"""The contents of the report, from the ledger."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from foundry.core.contracts import Metric, UsageError
from foundry.core.metrics import METRICS
from foundry.lab.decide.power import smallest_decidable
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Generation, Noise
from foundry.lab.ledger.sweep_row import SweepRow
from foundry.lab.report import arms, runs
from foundry.lab.report.contents import ArmEntry, Contents, Errors, Gain, GenerationEntry, NoiseEntry
from foundry.lab.report.snapshot import ArmKey, Snapshot


def read(project: Path) -> Contents:
    """What the ledger of a project holds. A project without one is not given one: its contents are empty.

    Raises:
        InvalidData: the ledger is damaged, or of another version.
    """
    if not Ledger.is_in(project):
        return _empty(project)
    with Ledger.look(project) as ledger:
        snapshot = Snapshot(ledger)
        entries = arms.arms(snapshot)
        lineage = _lineage(snapshot, entries)
        metric = Counter(sweep.metric for sweep in snapshot.compared.values()).most_common(1)
        name = metric[0][0] if metric else "val_loss"
        newest = next((each for each in reversed(snapshot.compared.values()) if each.metric == name), None)
        return {
            "project": project.resolve().name,
            "created": time.time(),
            "metric": name,
            **_meaning(name, newest),
            "generations": lineage,
            "gain": _gain(lineage),
            "arms": entries,
            "trials": runs.trials(snapshot, entries),
            "curves": runs.curves(snapshot, entries, ledger.curve),
            "keep_rates": arms.keep_rates(entries),
            "noise": [_noise(noise, snapshot) for noise in sorted(ledger.noises(), key=lambda noise: -noise.runs)],
            "errors": _errors(snapshot),
        }


class _Meaning(TypedDict):
    unit: str
    higher_is_better: bool


def _meaning(name: str, sweep: SweepRow | None) -> _Meaning:
    """Of the metric that a sweep ranked by."""
    if sweep and sweep.unit is not None and sweep.higher_is_better is not None:
        return {"unit": sweep.unit, "higher_is_better": sweep.higher_is_better}
    known = next((metric for metric in METRICS if metric.name == name), Metric(name))  # before sweeps kept what it is
    return {"unit": known.unit, "higher_is_better": known.higher_is_better}


def _empty(project: Path) -> Contents:
    return {
        "project": project.resolve().name,
        "created": time.time(),
        "metric": "val_loss",
        **_meaning("val_loss", None),
        "generations": [],
        "gain": None,
        "arms": [],
        "trials": [],
        "curves": [],
        "keep_rates": [],
        "noise": [],
        "errors": {"sweeps": 0, "alpha": None, "expected": 0.0, "null_sweeps": 0, "null_promotions": 0},
    }


def _lineage(snapshot: Snapshot, entries: Sequence[ArmEntry]) -> list[GenerationEntry]:
    generations = snapshot.generations
    numbers = {each.number for each in generations}
    parents = {each.number: each.parent if each.parent in numbers else None for each in generations}
    standing, number = set(), generations[-1].number if generations else None
    while number is not None:
        standing.add(number)
        number = parents[number]
    tried = Counter(entry["generation"] for entry in entries)
    decisions = {decision.id: decision for decision in snapshot.decisions}
    found = []
    for each in generations:
        decision = decisions.get(each.decision or "")
        born = snapshot.born(ArmKey(decision.generation, "", decision.arm)) if decision else None
        entry: GenerationEntry = {
            "number": each.number,
            "kind": each.kind,
            "summary": each.summary,
            "parent": parents[each.number],
            "undone_by": None if each.number in standing else _undone_by(each.number, generations, parents),
            "current": each is generations[-1],
            "created": each.created,
            "loss": each.loss,
            "given_up": each.given_up,
            "gain": arms.interval_of(decision),
            "reason": decision.reason if decision else "",
            "changes": born.changes if born else [],
            "ancestry": list(each.ancestry),
            "guard": (decision.rule.get("confirm_at") or None) if decision else None,
            "tried": tried[each.number],
        }
        found.append(entry)
    return found


def _undone_by(number: int, generations: Sequence[Generation], parents: dict[int, int | None]) -> int | None:
    """The first rollback that went back behind a generation."""
    for each in generations:
        parent = parents[each.number]
        if each.kind == "rollback" and each.number > number and parent is not None and parent < number:
            return each.number
    return None


def _gain(lineage: Sequence[GenerationEntry]) -> Gain | None:
    """The gains on the way to the current generation, added. Their intervals make no interval of the sum, however they
    are combined: those gains are here because they looked good, and nobody knows of how many."""
    by_number = {entry["number"]: entry for entry in lineage}
    gains, number = [], lineage[-1]["number"] if lineage else None
    while number is not None:
        entry = by_number[number]
        if entry["kind"] == "promoted" and entry["gain"] is not None:
            gains.append(entry["gain"])
        number = entry["parent"]
    if not gains:
        return None
    lows = [gain["low"] for gain in gains if gain["low"] is not None]
    return {
        "estimate": math.fsum(gain["effect"] for gain in gains),
        "least": math.fsum(lows) if len(lows) == len(gains) else None,
        "promotions": len(gains),
        "n": sum(gain["n"] for gain in gains),
    }


def _noise(noise: Noise, snapshot: Snapshot) -> NoiseEntry:
    """With the smallest gain that sweeps find by the rule that was used last."""
    stated = [each for sweep in snapshot.compared.values() if (each := sweep.rule)]
    try:
        rule = Rule.from_json(stated[-1]) if stated else Rule()
        smallest = smallest_decidable(rule.test(noise.sigma, noise.df), 0.8, math.sqrt(2) * noise.sigma, noise.df)
    except UsageError:  # a rule of another version; or no noise at all, and so nothing to test
        smallest = None
    return {
        "metric": noise.metric,
        "context": noise.context,
        "sigma": noise.sigma,
        "df": noise.df,
        "runs": noise.runs,
        "smallest_decidable": smallest,
    }


def _errors(snapshot: Snapshot) -> Errors:
    decided = {decision.sweep for decision in snapshot.decisions if decision.n}
    rates = [float(sweep.rule.get("alpha", Rule.alpha)) for id, sweep in snapshot.compared.items() if id in decided]
    nulls = [sweep for sweep in snapshot.sweeps if sweep.kind == "null" and sweep.conclusion is not None]
    return {
        "sweeps": len(rates),
        "alpha": rates[0] if len(set(rates)) == 1 else None,
        "expected": math.fsum(rates),
        "null_sweeps": len(nulls),
        "null_promotions": sum(bool(sweep.conclusion and sweep.conclusion["winner"]) for sweep in nulls),
    }
