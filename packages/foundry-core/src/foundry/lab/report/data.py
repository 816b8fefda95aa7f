"""The contents of the report, from the ledger."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from foundry.core.contracts import UsageError
from foundry.lab.decide.power import smallest_decidable
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Decision, Generation, Noise
from foundry.lab.report import arms, runs
from foundry.lab.report.contents import ArmEntry, Contents, Errors, Gain, GenerationEntry, NoiseEntry
from foundry.lab.report.groups import groups, meaning
from foundry.lab.report.lengths import UNKNOWN
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
        cases = arms.arms(snapshot)
        entries = [*cases.values()]
        lineage = _lineage(snapshot, entries)
        trials = runs.trials(snapshot, cases)
        curves = runs.curves(snapshot, cases, ledger.curve)
        found = groups(snapshot, trials, curves)
        metric = found[0]["metric"] if found else "val_loss"
        return {
            "project": project.resolve().name,
            "created": time.time(),
            "metric": metric,
            **meaning(snapshot, metric),
            "groups": found,
            "generations": lineage,
            "gain": _gain(lineage, metric),
            "arms": entries,
            "trials": trials,
            "curves": curves,
            "keep_rates": arms.keep_rates(entries),
            "noise": [_noise(noise, snapshot) for noise in sorted(ledger.noises(), key=lambda noise: -noise.runs)],
            "errors": _errors(snapshot),
        }


def _empty(project: Path) -> Contents:
    return {
        "project": project.resolve().name,
        "created": time.time(),
        "metric": "val_loss",
        "unit": "nats",
        "higher_is_better": False,
        "groups": [],
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
    tried = Counter(entry["generation"] for entry in arms.once_each(entries))
    found = []
    for each in generations:
        decision = snapshot.decision_of(each)
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
            "gain": arms.interval_of(decision, snapshot),
            "own_budget": str(snapshot.own_lengths[each.number]),
            "below_own_budget": _is_below_own(decision, snapshot),
            "reason": decision.reason if decision else "",
            "changes": born.changes if born else [],
            "ancestry": list(each.ancestry),
            "guard": (decision.rule.get("confirm_at") or None) if decision else None,
            "tried": tried[each.number],
        }
        found.append(entry)
    return found


def _is_below_own(decision: Decision | None, snapshot: Snapshot) -> bool | None:
    """Whether a promotion rests on runs shorter than the budget of the baseline that it beat: a gain of short trainings
    may not be one of long ones."""
    sweep = snapshot.compared.get(decision.sweep) if decision else None
    if decision is None or sweep is None:
        return None
    own = snapshot.own_lengths.get(decision.generation, UNKNOWN)
    return snapshot.length(sweep).is_below(own, snapshot.runs_of(decision))


def _undone_by(number: int, generations: Sequence[Generation], parents: dict[int, int | None]) -> int | None:
    """The first rollback that went back behind a generation."""
    for each in generations:
        parent = parents[each.number]
        if each.kind == "rollback" and each.number > number and parent is not None and parent < number:
            return each.number
    return None


def _gain(lineage: Sequence[GenerationEntry], metric: str) -> Gain | None:
    """The gains in one metric on the way to the current generation, added. Their intervals make no interval of the sum,
    however they are combined: those gains are here because they looked good, and nobody knows of how many."""
    by_number = {entry["number"]: entry for entry in lineage}
    every, number = [], lineage[-1]["number"] if lineage else None
    while number is not None:
        entry = by_number[number]
        if entry["kind"] == "promoted" and entry["gain"] is not None:
            every.append(entry["gain"])
        number = entry["parent"]
    gains = [gain for gain in every if gain["metric"] == metric]
    if not gains:
        return None
    lows = [gain["low"] for gain in gains if gain["low"] is not None]
    return {
        "metric": metric,
        "budgets": list(dict.fromkeys(gain["budget"] for gain in reversed(gains))),
        "estimate": math.fsum(gain["effect"] for gain in gains),
        "least": math.fsum(lows) if len(lows) == len(gains) else None,
        "promotions": len(gains),
        "n": sum(gain["n"] for gain in gains),
        "others": len(every) - len(gains),
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
        "budget": snapshot.budget_of(noise),
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
