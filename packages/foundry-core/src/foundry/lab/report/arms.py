"""What became of every arm, and which mutation types are worth trying."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from statistics import NormalDist, fmean
from typing import TypedDict, get_args

from foundry.lab.decide.conclusion import Conclusion
from foundry.lab.ledger.records import BriefTrial, Decision
from foundry.lab.report.contents import ArmEntry, Interval, KeepRate, Outcome
from foundry.lab.report.lengths import UNKNOWN, mean, part
from foundry.lab.report.snapshot import ArmCase, ArmKey, Asked, Snapshot, score
from foundry.lab.search.rounds import best_of, effects_of

LEVEL = 0.95
"""Of the intervals that are made here. Those of decisions bring their own."""
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
KEPT = ("promoted", "won", "kept")
ORDER: Sequence[Outcome] = get_args(Outcome)
UNJUDGED = ("described", "refused", "open")
VERDICTS: Mapping[str, Outcome] = {"promote": "won", "reject": "rejected", "inconclusive": "inconclusive"}


def arms(snapshot: Snapshot) -> dict[ArmCase, ArmEntry]:
    """Every arm that was compared with a generation, once for each budget and metric, best first."""
    compared = snapshot.compared
    tried: dict[ArmCase, list[Asked]] = defaultdict(list)
    controls: dict[str, list[BriefTrial]] = defaultdict(list)
    for each in snapshot.asked:
        if each.sweep.id in compared and each.is_control:
            controls[each.sweep.id] += each.trials
        elif each.sweep.id in compared:
            tried[each.case].append(each)
    decided: dict[ArmCase, list[Decision]] = defaultdict(list)
    for decision in snapshot.decisions:
        if decision.sweep in compared:
            decided[snapshot.case(compared[decision.sweep], decision.arm)].append(decision)
    cases = dict.fromkeys([*tried, *decided])
    found = [(case, _entry(snapshot, case, tried.get(case, []), decided.get(case, []), controls)) for case in cases]
    refused = _refused(snapshot, {case.key for case in cases})
    return dict(sorted([*found, *refused], key=lambda each: _rank(each[1])))


def key_of(entry: ArmEntry) -> ArmKey:
    """What names the arm among all sweeps."""
    return ArmKey(entry["generation"], entry["on"], entry["arm"])


def once_each(entries: Iterable[ArmEntry]) -> list[ArmEntry]:
    """Every arm once: what was tried with several budgets, or by several metrics, by the best that became of it."""
    found: dict[ArmKey, ArmEntry] = {}
    for entry in entries:
        before = found.setdefault(key_of(entry), entry)
        if before is not entry and ORDER.index(entry["outcome"]) < ORDER.index(before["outcome"]):
            found[key_of(entry)] = entry
    return [*found.values()]


def keep_rates(entries: Iterable[ArmEntry]) -> list[KeepRate]:
    """Per mutation type, most tried first, and then of all arms together. An arm of two types counts for both."""
    counted: dict[str, Counter[Outcome]] = defaultdict(Counter)
    every: Counter[Outcome] = Counter()
    for entry in once_each(entries):
        every[entry["outcome"]] += 1
        for type in entry["types"]:
            counted[type][entry["outcome"]] += 1
    rates = [_rate(type, outcomes) for type, outcomes in counted.items()]
    return [*sorted(rates, key=lambda rate: (-rate["tried"], rate["type"])), _rate("all", every)] if every else []


def interval_of(decision: Decision | None, snapshot: Snapshot) -> Interval | None:
    """What a decision says of the difference, if it rests on any runs."""
    if decision is None or decision.effect is None:
        return None
    sweep, runs = snapshot.by_id.get(decision.sweep), snapshot.runs_of(decision)
    return {
        "metric": decision.metric,
        "budget": part(UNKNOWN if sweep is None else snapshot.length(sweep), "1"),
        **_trained(runs),
        "effect": decision.effect,
        "low": decision.low,
        "high": decision.high,
        "confidence": decision.confidence,
        "n": decision.n,
        "confirmed": True,
    }


def wilson(kept: int, tried: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927), which makes sense for few and for none, too."""
    if not tried:
        return 0.0, 1.0
    share, weight = kept / tried, Z * Z / tried
    middle = (share + weight / 2) / (1 + weight)
    half = Z * math.sqrt(share * (1 - share) / tried + weight / (4 * tried)) / (1 + weight)
    return (middle - half if kept else 0.0), (middle + half if kept < tried else 1.0)


def _entry(
    snapshot: Snapshot,
    case: ArmCase,
    asked: Sequence[Asked],
    decisions: Sequence[Decision],
    controls: Mapping[str, Sequence[BriefTrial]],
) -> ArmEntry:
    resting = [decision for decision in decisions if decision.n]
    decision = next(reversed(resting or list(decisions)), None)
    sweep = snapshot.compared[decision.sweep] if decision else asked[-1].sweep
    key, metric, born = case.key, case.metric, snapshot.born(case.key)
    trials = [trial for each in asked for trial in each.trials]
    finished = [trial for trial in trials if trial.status == "finished"]
    at = [trial for trial in finished if trial.role != "guard"]
    share = max({trial.share for trial in at}, key=_fraction, default="1")
    longest = [trial for trial in at if trial.share == share]
    losses = _values(longest, metric)
    flops = [trial.flops for trial in longest if trial.flops is not None]
    failures = [trial for trial in trials if trial.status == "failed"]
    outcome = _outcome(snapshot, asked, bool(failures), decisions, decision)
    return {
        "arm": key.arm,
        "on": key.on,
        "types": born.types,
        "generation": key.generation or 0,
        "outcome": outcome,
        "difference": interval_of(decision, snapshot) or _screened(snapshot, longest, controls, case),
        "loss": fmean(losses) if losses else None,
        "share": share,
        "budget": part(case.length, share),
        "runs": len(finished),
        "flops": fmean(flops) if flops else None,
        "reason": _reason(failures, decision, outcome),
        "changes": born.changes,
        "sweep": sweep.id,
        "metric": metric,
    }


def _outcome(
    snapshot: Snapshot, asked: Sequence[Asked], failed: bool, decisions: Sequence[Decision], decision: Decision | None
) -> Outcome:
    if any(each.id in snapshot.promoted for each in decisions):
        return "promoted"
    if decision is not None and decision.n and not (failed and decision.verdict == "reject"):
        return VERDICTS[decision.verdict]
    if failed:
        return "failed"
    if any(_is_kept(each) for each in asked):
        return "kept"
    if decision is None and not all(each.sweep.status == "finished" for each in asked):
        return "open"
    return "described" if all(each.sweep.kind == "ablation" for each in asked) else "screened_out"


def _is_kept(asked: Asked) -> bool:
    """Whether a round of a search kept the arm until its audit."""
    sweep = asked.sweep
    if sweep.kind != "round" or sweep.search is None or sweep.conclusion is None:
        return False
    effects = effects_of(Conclusion.from_json(sweep.conclusion)) or {}
    return asked.case.key.arm == best_of(effects, sweep.search.least)


def _reason(failures: Sequence[BriefTrial], decision: Decision | None, outcome: Outcome) -> str:
    """Why an arm ended as it did: the decision's words, or those of the run that failed."""
    reasons = [trial.reason for trial in failures if trial.reason]
    if reasons and outcome == "failed":
        return reasons[-1]
    return decision.reason if decision is not None else ""


def _screened(
    snapshot: Snapshot, longest: Sequence[BriefTrial], controls: Mapping[str, Sequence[BriefTrial]], case: ArmCase
) -> Interval | None:
    """The difference to the control of the same sweep on the same rung, from the newest sweep that has both.

    Its interval takes the noise of the whole budget for that of the rung.
    """
    metric = case.metric
    for sweep in dict.fromkeys(trial.sweep for trial in reversed(longest)):
        own = [trial for trial in longest if trial.sweep == sweep]
        share, role = own[0].share, own[0].role
        control = [trial for trial in controls[sweep] if (trial.share, trial.role) == (share, role)]
        ours, theirs = _values(own, metric), _values(control, metric)
        if ours and theirs:
            more_is_better = metric in own[0].higher_is_better
            effect = (fmean(theirs) - fmean(ours)) * (-1 if more_is_better else 1)
            sigma = snapshot.compared[sweep].sigma
            half = None if sigma is None else Z * sigma * math.sqrt(1 / len(ours) + 1 / len(theirs))
            low, high = (None, None) if half is None else (effect - half, effect + half)
            level = None if half is None else LEVEL
            interval: Interval = {
                "metric": metric, "budget": part(case.length, share), **_trained(own),
                "effect": effect, "low": low, "high": high, "confidence": level, "n": len(ours), "confirmed": False,
            }  # fmt: skip
            return interval
    return None


class _Trained(TypedDict):
    steps: float | None
    tokens: float | None


def _trained(runs: Sequence[BriefTrial]) -> _Trained:
    """What runs came to, in the mean."""
    return {"steps": mean([run.steps for run in runs]), "tokens": mean([run.tokens for run in runs])}


@cache
def _fraction(share: str) -> Fraction:
    return Fraction(share)


def _values(trials: Iterable[BriefTrial], metric: str) -> list[float]:
    return [value for trial in trials if (value := score(trial, metric)) is not None]


def _refused(snapshot: Snapshot, known: Iterable[ArmKey]) -> Iterator[tuple[ArmCase, ArmEntry]]:
    seen = set(known)
    for refusal in snapshot.refusals:
        sweep = snapshot.compared.get(refusal.sweep)
        if sweep is None:
            continue
        case = snapshot.case(sweep, refusal.arm)
        key = case.key
        if key in seen:
            continue
        seen.add(key)
        entry: ArmEntry = {
            "arm": refusal.arm,
            "on": key.on,
            "types": snapshot.born(key).types,
            "generation": key.generation or 0,
            "outcome": "refused",
            "difference": None,
            "loss": None,
            "share": "1",
            "budget": str(case.length),
            "runs": 0,
            "flops": None,
            "reason": refusal.reason,
            "changes": list(refusal.changes),
            "sweep": refusal.sweep,
            "metric": sweep.metric,
        }
        yield case, entry


def _rank(entry: ArmEntry) -> tuple[int, float]:
    """Those with an interval by its lower end; behind them those without, of which nothing is sure, by their effect."""
    difference = entry["difference"]
    if difference is None:
        return 2, 0.0
    return (1, -difference["effect"]) if difference["low"] is None else (0, -difference["low"])


def _rate(type: str, outcomes: Counter[Outcome]) -> KeepRate:
    kept = sum(outcomes[each] for each in outcomes if each in KEPT)
    tried = sum(outcomes[each] for each in outcomes if each not in UNJUDGED)
    low, high = wilson(kept, tried)
    return {"type": type, "tried": tried, "kept": kept, "low": low, "high": high, "outcomes": dict(outcomes)}
