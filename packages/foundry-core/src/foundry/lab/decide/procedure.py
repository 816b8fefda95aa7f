"""Screen, confirm, conclude: what a sweep trains, in which order, and what follows from it.

    screen    every arm and the baseline, on one seed or few, on rungs of a growing budget; the best go on
    confirm   the finalists, each against the baseline in pairs of runs on fresh seeds, until a sequential test decides
    outdo     an arm that beat the baseline's best learning rate is compared with the baseline as it is, too
    guard     the winner once more at a larger scale, where the rule asks for it
    conclude  for every arm a verdict and its reason; the winner, if there is one

A procedure is a pure generator (see `foundry.lab.decide.request`): it yields requests and is sent their outcomes. What
it asks for next depends on outcomes only in the order of the rule, never on which of them came first.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

from foundry.lab.decide.conclusion import ArmConclusion, Conclusion, Duelled
from foundry.lab.decide.confirmation import confirm, guard, outdo
from foundry.lab.decide.duel import Duel
from foundry.lab.decide.race import Race, disasters, figures
from foundry.lab.decide.request import CONTROL, Answers, Contender, Request
from foundry.lab.decide.rule import Rule
from foundry.lab.decide.screening import screen
from foundry.lab.ledger.records import Evidence, Verdict

Procedure: TypeAlias = Generator[Sequence[Request], Answers, Conclusion]


def at_once(ending: Conclusion) -> Procedure:
    """Ends so, and asks for nothing."""
    yield from ()
    return ending


def sweep_procedure(
    baseline: Contender,
    contenders: Sequence[Contender],
    rule: Rule,
    sigma: float,
    df: int,
    *,
    rho: float = 0.0,
    evidence: Mapping[tuple[str, str], Evidence] | None = None,
    given_up: float = 0.0,
) -> Procedure:
    """Compare `contenders` with `baseline`, whose arm is CONTROL. Contenders of the family CONTROL are the baseline at
    other learning rates.

    sigma     standard deviation of one run over seeds, in the metric's unit, with `df` degrees of freedom
    rho       correlation of two runs that share a seed
    evidence  (identity of the control, of the arm) -> what earlier sweeps found, frozen when this one started
    given_up  Generation.given_up of the baseline

    Raises UsageError for arms that cannot be compared, FoundryError where the baseline itself cannot be trained.
    """
    race = Race(baseline, contenders, rule, sigma, df, rho, evidence or {}, given_up)
    yield from screen(race)
    yield from confirm(race)
    yield from outdo(race)
    yield from guard(race)
    return _conclusion(race)


def null_procedure(
    identity: str, arms: int, rule: Rule, sigma: float, df: int, *, rho: float = 0.0, round: int = 0
) -> Procedure:
    """A sweep without anything to find: `arms` times the baseline itself, each with seeds of its own. A promotion is a
    false one. Every `round` has other seeds."""
    baseline = Contender(CONTROL, f"{identity}/null/{round}")
    copies = [Contender(f"null {k}", f"{baseline.identity}/{k}", own_seeds=True) for k in range(1, arms + 1)]
    return sweep_procedure(baseline, copies, rule, sigma, df, rho=rho)


def _conclusion(race: Race) -> Conclusion:
    arms = []
    for each in race.contenders:
        verdict, reason = race.ended.get(each.arm) or _last_word(race, each)
        arms.append(
            ArmConclusion(
                arm=each.arm,
                verdict=verdict,
                reason=reason,
                screening=tuple(race.screened.get(each.arm, ())),
                duels=tuple(_duelled(duel) for duel in race.duels.get(each.arm, ()) if duel.differences),
            )
        )
    # The last duel is with what the winner would replace: the baseline as it is, not at its best learning rate.
    won = race.duels[race.winner.arm][-1] if race.winner else None
    return Conclusion(
        arms=tuple(arms),
        winner=race.winner.arm if race.winner else None,
        control=race.control.arm,
        error_rate=error_rate(race.rule, race.sigma, race.df)
        + ("; a pair that an earlier sweep began keeps its gain and its sigma" if race.evidence else ""),
        runs=len(race.known),
        cost=sum((request.share for request in race.known), Fraction(0)),
        given_up=max(0.0, race.given_up + _given_up_by(won)) if won else race.given_up,
        controls=race.control_scores,
    )


def _given_up_by(won: Duel) -> float:
    """What the promotion of a candidate may lose in the median, and no more than the margin. < 0: what it gains at
    least."""
    low = won.judgement.low
    return won.test.margin if low is None else min(won.test.margin, -low)


def _duelled(duel: Duel) -> Duelled:
    assert duel.evidence.terms is not None
    return Duelled(duel.control.arm, duel.judgement, duel.evidence.terms, duel.differences, tuple(duel.pairs))


def _last_word(race: Race, contender: Contender) -> tuple[Verdict, str]:
    """About an arm that had not ended when the sweep did."""
    judgement = race.judgement(contender)
    facts = figures(judgement) if judgement else "no pair was run"
    winner = race.winner.arm if race.winner else "another"
    if contender in race.qualified:
        claim = race.claim(race.duels[contender.arm][0])
        if contender is race.winner:
            return "promote", f"{claim}: {facts}; {disasters(race.duels[contender.arm][-1])}"
        return "inconclusive", f"{claim}, too: {facts}; {winner} gained more and is to be beaten next"
    return "inconclusive", f"undecided when {winner} qualified: {facts}"


def error_rate(rule: Rule, sigma: float, df: int) -> str:
    """How often a sweep under this rule is wrong, in words."""
    words = [
        f"a sweep in which no arm is better promotes one with probability <= {rule.alpha:.3g}, however seeds vary",
        f"a pair counts for at most {rule.gain(sigma):.4g}",
    ]
    if rule.cost:
        words[0] += f", and likewise one with a lower {rule.cost} that is worse than its margin"
    return f"{'; '.join(words)}; sigma {sigma:.4g} with {df} degrees of freedom"
