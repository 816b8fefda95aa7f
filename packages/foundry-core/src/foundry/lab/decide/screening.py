"""The first part of a sweep: many arms, few runs each, on rungs of a growing budget, to find the few that are worth
a real comparison. Its runs decide who is compared, never who is better: the best of 8 equal arms looks better than
the baseline by 1.4 sigma."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from foundry.lab.decide.conclusion import Screened
from foundry.lab.decide.noise import cautious, pooled
from foundry.lab.decide.race import Contender, Race, Steps, baseline_failed, of_budget
from foundry.lab.decide.request import CONTROL, Failure, Request

CLEARLY = 2.0
"""Standard errors."""


def screen(race: Race) -> Steps:
    """Leave the finalists standing. A rung that would choose nothing is not run."""
    shares = race.rule.shares(_lines(race))
    race.recall()
    for share in shares:
        if len(race.standing) == _lines(race) <= race.rule.finalists and len(race.controls) == 1:
            return
        yield from _rung(race, share, last=share == shares[-1])


def _lines(race: Race) -> int:
    return len({each.line for each in race.standing})


def _rung(race: Race, share: Fraction, last: bool) -> Steps:
    """Train all that stand, and the control, with `share` of the budget; then let the best go on."""
    rule = race.rule
    runs = {each: _requests(race, each, share, rule.control_seeds) for each in race.controls}
    runs |= {each: _requests(race, each, share, rule.screening_seeds) for each in race.standing}
    yield from race.ask([request for requests in runs.values() for request in requests])

    means = _means(race, runs)
    _choose_learning_rates(race, means, share)

    control = [outcome for request in runs[race.control] if not isinstance(outcome := race.known[request], Failure)]
    race.control_scores[str(share)] = tuple(control)
    for each, mean in means.items():
        seen = Screened(share, mean, len(runs[each]), means[race.control] - mean)
        race.screened.setdefault(each.arm, []).append(seen)
    race.recall()

    own = pooled([control])[0] if len(control) > 1 else 0.0  # short runs may spread more than full ones
    sigma = max(cautious(race.sigma, race.df), own)
    error = sigma * math.sqrt(1 / rule.screening_seeds + 1 / rule.control_seeds)
    _prune(race, share, CLEARLY * error, last)


def _requests(race: Race, contender: Contender, share: Fraction, seeds: int) -> list[Request]:
    purpose = ("screen", race.baseline.identity)
    return [Request(contender.arm, contender.seed(*purpose, i), "screen", share) for i in range(seeds)]


def _means(race: Race, runs: Mapping[Contender, list[Request]]) -> dict[Contender, float]:
    """Of an arm's runs, all of which need a score: else it has lost. Of the baseline's runs one is enough.

    Raises:
        BaselineFailed: it has none.
    """
    means = {}
    for contender, requests in runs.items():
        outcomes = [race.known[request] for request in requests]
        scores = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
        failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        if contender is race.baseline and not scores:
            raise baseline_failed(failures[0], requests[0])
        if failures and contender is not race.baseline:
            race.end(contender, "reject", f"its run failed {of_budget(requests[0].share)}: {failures[0].reason}")
        else:
            means[contender] = math.fsum(scores) / len(scores)
    return means


def _choose_learning_rates(race: Race, means: Mapping[Contender, float], share: Fraction) -> None:
    """Each family keeps its best, the baseline's too: else a sweep measures whom the learning rate happens to suit."""
    families: dict[str, list[Contender]] = {}
    for each in means:
        families.setdefault(each.line if each.arm != CONTROL else CONTROL, []).append(each)
    for line, members in families.items():
        best = min(members, key=means.__getitem__)
        for each in members:
            if each is not best and each is not race.baseline:
                race.end(each, "inconclusive", f"{best.arm} was better {of_budget(share)}")
        if line == CONTROL:
            race.controls = [best]
            if best is not race.baseline:
                race.end(best, "inconclusive", "the baseline's best learning rate: the others were compared with it")


def _prune(race: Race, share: Fraction, clearly: float, last: bool) -> None:
    """Keep the best, each by its distance from what it has to beat: the baseline, less the margin of a cheaper arm.
    Before the last rung one that is clearly above that goes on, too; after it one clearly below need not go on."""
    above = {each: race.screened[each.arm][-1].difference + race.margin(each) for each in race.standing}
    ranked = sorted(race.standing, key=lambda each: -above[each])
    room = race.rule.finalists if last else race.rule.keep(len(ranked))
    for rank, each in enumerate(ranked, start=1):
        seen = f"{race.screened[each.arm][-1].difference:+.4f} {of_budget(share)}"
        if above[each] < -clearly and (last or rank > room):
            race.end(each, "reject", f"screened out, {seen}: clearly worse, by more than {clearly:.4f}")
        elif rank > room and (last or above[each] <= clearly):
            race.end(each, "inconclusive", f"screened out, {seen}: rank {rank} of {len(ranked)}, not tested further")
