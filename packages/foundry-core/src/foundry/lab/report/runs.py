"""Every training run, and the loss curves of the arms."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypeAlias, TypeVar

from foundry.lab.ledger.records import BriefTrial, Json
from foundry.lab.report import limits
from foundry.lab.report.arms import key_of
from foundry.lab.report.contents import ArmEntry, Curve, Drawn, TrialEntry
from foundry.lab.report.lengths import part
from foundry.lab.report.snapshot import ArmCase, ArmKey, Asked, Snapshot, score

T = TypeVar("T")
CurveKey: TypeAlias = tuple[ArmKey, str]
"""An arm, and a budget in words."""
DRAWN = ("val_loss", "train_loss", "expert_usage", "expert_unevenness")
END = math.inf
NOTHING: Mapping[str, float] = {}


def trials(snapshot: Snapshot, arms: Mapping[ArmCase, ArmEntry]) -> list[TrialEntry]:
    """Every trial, in the order in which they were asked for."""
    metrics = {sweep.metric for sweep in snapshot.compared.values()}
    others = {metric: metrics - {metric} for metric in {sweep.metric for sweep in snapshot.sweeps}}
    outcomes = {id(asked): _outcome(arms.get(asked.case)) for asked in snapshot.asked}
    return [
        _entry(trial, asked, outcomes[id(asked)], others[asked.case.metric])
        for trial, asked in snapshot.trials.values()
    ]


def curves(
    snapshot: Snapshot, arms: Mapping[ArmCase, ArmEntry], points: Callable[[str], Sequence[Json]]
) -> list[Curve]:
    """One curve for every arm and budget: the mean over its seeds.

    Args:
        points: the curve of a trial, by its id.
    """
    grouped: dict[CurveKey, list[tuple[BriefTrial, Asked]]] = defaultdict(list)
    for trial, asked in snapshot.trials.values():
        if trial.status == "finished" and trial.role != "guard":
            grouped[asked.case.key, part(asked.case.length, trial.share)].append((trial, asked))
    found = []
    for key, budget in _drawn(list(grouped), [*arms.values()]):
        if key.generation is None:
            continue
        newest = grouped[key, budget][-1][1].case
        members = [trial for trial, _ in grouped[key, budget][-limits.SEEDS :]]
        rows = _mean([_thinned(points(trial.id)) for trial in members])
        if len(rows) < 2:
            continue
        trained = [(trial.flops, trial.tokens) for trial in members]
        per_token = [flops / tokens for flops, tokens in trained if flops and tokens]
        curve: Curve = {
            "arm": key.arm,
            "on": key.on,
            "generation": key.generation,
            "outcome": _outcome(arms.get(newest)),
            "budget": budget,
            "seeds": len(members),
            "flops_per_token": fmean(per_token) if per_token else None,
            "tokens": [row["tokens"] for row in rows],
            "val_loss": [row["val_loss"] for row in rows],
            "train_loss": [row["train_loss"] for row in rows],
            "expert_usage": _if_any(row["expert_usage"] for row in rows),
            "expert_unevenness": _if_any(row["expert_unevenness"] for row in rows),
        }
        found.append(curve)
    return found


def _outcome(arm: ArmEntry | None) -> Drawn:
    return "baseline" if arm is None else arm["outcome"]


def _drawn(names: Sequence[CurveKey], arms: Sequence[ArmEntry]) -> list[CurveKey]:
    """The curves that are drawn, in the order of `names`: all, unless they are too many."""
    names = [name for name in names if name[0].generation is not None]
    if len(names) <= limits.CURVES:
        return names
    ranks = {key_of(arm): rank for rank, arm in reversed([*enumerate(arms)])}
    controls = [name for name in names if name[0] not in ranks][-limits.CURVES // 4 :]
    tried = [name for name in names if name[0] in ranks]
    best = sorted(tried, key=lambda name: ranks[name[0]])[: limits.CURVES // 2]
    chosen = {*controls, *best}
    chosen |= {*[name for name in reversed(tried) if name not in chosen][: limits.CURVES - len(chosen)]}  # the newest
    return [name for name in names if name in chosen]


def _entry(trial: BriefTrial, asked: Asked, outcome: Drawn, others: Iterable[str]) -> TrialEntry:
    (generation, on, arm), length, metric = asked.case
    _, _, role, share, id, seed, status, attempts, reason, _, _, steps, tokens, flops, seconds = trial
    also = {name: value for name in others if (value := score(trial, name)) is not None} if others else NOTHING
    return {
        "id": id,
        "arm": arm,
        "on": on,
        "generation": generation,
        "sweep": asked.sweep.id,
        "role": role,
        "share": share,
        "budget": part(length, share),
        "seed": seed,
        "status": status,
        "metric": metric,
        "loss": score(trial, metric),
        "also": also,
        "steps": steps,
        "tokens": tokens,
        "flops": flops,
        "seconds": seconds,
        "attempts": attempts,
        "outcome": outcome,
        "reason": reason,
    }


def _thinned(points: Sequence[Json]) -> list[dict]:
    """At most POINTS points: all that were evaluated, if they are not too many themselves, and some between them."""
    rows = [
        {"step": point["step"], "tokens": point["tokens"], **{key: point.get(key) for key in DRAWN}} for point in points
    ]
    evaluated = [i for i, row in enumerate(rows) if row["val_loss"] is not None]
    # Between them, rather those that say how experts are used: only what was logged does.
    others = [i for i, row in enumerate(rows) if row["expert_usage"] is not None] or range(len(rows))
    spare = limits.POINTS - len(evaluated)
    kept = set(spread(evaluated, limits.POINTS)) | (set(spread(others, spare)) if spare > 1 else set())
    return [row for i, row in enumerate(rows) if i in kept]


def spread(values: Sequence[T], n: int) -> list[T]:
    """`n` of the values at equal distances, the first and the last among them."""
    if len(values) <= n:
        return list(values)
    return [values[round(i * (len(values) - 1) / (n - 1))] for i in range(n)]


def _mean(curves: Sequence[list[dict]]) -> list[dict]:
    """Point by point, over the curves that have the points of most. The rows of two seeds differ by some tokens, so a
    point is a step; or the end, which a budget in tokens reaches a step earlier or later."""
    placed = [{row["step"]: row for row in curve[:-1]} | {END: curve[-1]} for curve in curves if curve]
    seen = Counter(place for curve in placed for place in curve)
    axis = [place for place in sorted(seen) if 2 * seen[place] > len(placed)]
    alike = [curve for curve in placed if all(place in curve for place in axis)]
    if placed and not alike:
        alike, axis = placed[:1], sorted(placed[0])
    return [
        {
            "tokens": round(fmean(curve[place]["tokens"] for curve in alike)),
            **{key: _average(curve[place][key] for curve in alike) for key in DRAWN},
        }
        for place in axis
    ]


def _if_any(values: Iterable[float | None]) -> list[float | None]:
    """The values, or none of them where none is there."""
    listed = [*values]
    return listed if any(value is not None for value in listed) else []


def _average(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return round(fmean(there), 5) if there else None
