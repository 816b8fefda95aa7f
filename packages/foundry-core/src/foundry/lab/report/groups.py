"""What may be compared with each other: runs of one budget, by one metric. The page shows one such group at a time."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from statistics import fmean
from typing import Literal, TypedDict

from foundry.core.contracts import Metric, UsageError
from foundry.core.metrics import METRICS
from foundry.lab.decide.power import smallest_decidable
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger.records import Generation
from foundry.lab.ledger.sweep_row import SweepRow
from foundry.lab.report.contents import BaselineEntry, Curve, Group, GroupKey, TrialEntry
from foundry.lab.report.lengths import part
from foundry.lab.report.snapshot import Snapshot, score


def groups(snapshot: Snapshot, trials: Sequence[TrialEntry], curves: Sequence[Curve]) -> list[Group]:
    """Every budget and metric that something was measured at, the one with most whole trainings of arms first."""
    sizes, whole = Counter[GroupKey](), Counter[GroupKey]()
    for key, _, trial in grouped(trials):
        sizes[key] += 1
        if trial["outcome"] != "baseline" and trial["share"] == "1":
            whole[key] += 1
    newest = {(str(snapshot.length(sweep)), sweep.metric): sweep for sweep in snapshot.compared.values()}
    measured = _measured(snapshot, {metric for _, metric in sizes})
    names = sorted(reversed(sizes), key=lambda key: (-whole[key], -sizes[key]))
    drawn = {budget: _drawn(curve for curve in curves if curve["budget"] == budget) for budget, _ in sizes}
    return [
        {
            "budget": budget,
            "metric": metric,
            **meaning(snapshot, metric),
            "trials": sizes[budget, metric],
            "smallest_decidable": decidable_by(newest.get((budget, metric))),
            "curves": drawn[budget],
            "baselines": list(_baselines((budget, metric), snapshot, measured)),
        }
        for budget, metric in names
    ]


def grouped(trials: Iterable[TrialEntry]) -> Iterator[tuple[GroupKey, int, TrialEntry]]:
    """(group, number, trial) for every group in which a trial stands: one for each metric that it has."""
    for number, trial in enumerate(trials, 1):
        if trial["generation"] is not None and trial["role"] != "guard":
            budget = trial["budget"]
            yield (budget, trial["metric"]), number, trial
            for metric in trial["also"] or ():
                yield (budget, metric), number, trial


def value_of(trial: TrialEntry, metric: str) -> float | None:
    """Its value of a metric."""
    return trial["loss"] if metric == trial["metric"] else trial["also"].get(metric)


class Meaning(TypedDict):
    unit: str
    higher_is_better: bool


def meaning(snapshot: Snapshot, metric: str) -> Meaning:
    """The unit of a metric, and whether more of it is better."""
    for sweep in reversed(snapshot.compared.values()):
        if sweep.metric == metric and sweep.unit is not None and sweep.higher_is_better is not None:
            return {"unit": sweep.unit, "higher_is_better": sweep.higher_is_better}
    known = next((each for each in METRICS if each.name == metric), Metric(metric))  # before sweeps kept what it is
    return {"unit": known.unit, "higher_is_better": known.higher_is_better}


def decidable_by(sweep: SweepRow | None) -> float | None:
    """The gain that 80 % of sweeps like this one find."""
    if sweep is None or sweep.sigma is None or not sweep.rule:
        return None
    try:
        test = Rule.from_json(sweep.rule).test(sweep.sigma, sweep.df)
        return smallest_decidable(test, spread=math.sqrt(2) * sweep.sigma, df=sweep.df)
    except UsageError:  # a rule of another version; or no noise at all, and so nothing to test
        return None


def _drawn(curves: Iterable[Curve]) -> Literal["val_loss", "train_loss"] | None:
    """The validation loss, unless no curve has two points of it."""
    found = list(curves)
    if any(sum(value is not None for value in curve["val_loss"]) > 1 for curve in found):
        return "val_loss"
    return "train_loss" if found else None


def _measured(snapshot: Snapshot, metrics: Iterable[str]) -> dict[tuple[GroupKey, int], list[float]]:
    """The baselines' own results: (group, generation) -> those of its runs, each once."""
    found: dict[tuple[GroupKey, int], dict[str, float]] = defaultdict(dict)
    for asked in snapshot.asked:
        key, length, _ = asked.case
        if not asked.is_control or key.on or key.generation is None:
            continue
        for share, trials in groupby(asked.trials, attrgetter("share")):
            measured = [trial for trial in trials if trial.role != "guard" and trial.status == "finished"]
            for metric in metrics if measured else ():
                values = found[(part(length, share), metric), key.generation]
                values.update((trial.id, value) for trial in measured if (value := score(trial, metric)) is not None)
    return {key: [*values.values()] for key, values in found.items() if values}


def _baselines(
    key: GroupKey, snapshot: Snapshot, measured: Mapping[tuple[GroupKey, int], list[float]]
) -> Iterator[BaselineEntry]:
    """What each generation reaches here itself: the mean of its own runs; else what it was confirmed with, if that was
    here. A rollback brings back what the older generation had reached."""
    known: dict[int, BaselineEntry] = {}
    for each in snapshot.generations:
        own = measured.get((key, each.number), ())
        if own:
            known[each.number] = {"generation": each.number, "value": fmean(own), "runs": len(own)}
        elif each.loss is not None and _confirmed_at(each, snapshot) == key:
            known[each.number] = {"generation": each.number, "value": each.loss, "runs": 0}
        elif each.restores in known:
            known[each.number] = {**known[each.restores], "generation": each.number}
    yield from known.values()


def _confirmed_at(generation: Generation, snapshot: Snapshot) -> GroupKey | None:
    decision = snapshot.decision_of(generation)
    sweep = snapshot.compared.get(decision.sweep) if decision else None
    return None if sweep is None else (str(snapshot.length(sweep)), sweep.metric)
