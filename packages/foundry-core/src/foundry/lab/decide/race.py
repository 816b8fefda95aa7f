"""What a sweep knows while it runs: who competes, what was run, what is decided. Its steps are in `screening` and
`confirmation`, which read top to bottom; here is what both of them need."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TypeAlias

from foundry.core.contracts import FoundryError, UsageError
from foundry.lab.decide.conclusion import Screened
from foundry.lab.decide.duel import Duel, Pair, scores
from foundry.lab.decide.power import characteristic
from foundry.lab.decide.request import CONTROL, Answers, Contender, Failure, Outcome, Request
from foundry.lab.decide.rule import Rule
from foundry.lab.decide.sequential import Judgement, SequentialTest
from foundry.lab.ledger.records import Evidence, Terms, Verdict

Steps: TypeAlias = Generator[Sequence[Request], Answers, None]


class BaselineFailed(FoundryError):
    """No run of the baseline has a score: there is nothing to compare with."""


@dataclass
class Race:
    """The state of one sweep. `standing` are the arms that may still win, in the order of the sweep; the others have
    `ended`, or `qualified` and wait for the end."""

    baseline: Contender
    contenders: Sequence[Contender]
    rule: Rule
    sigma: float
    df: int
    rho: float
    evidence: Mapping[tuple[str, str], Evidence]  # (identity of the control, of the arm) -> what earlier sweeps found
    given_up: float
    known: dict[Request, Outcome] = field(default_factory=dict)
    screened: dict[str, list[Screened]] = field(default_factory=dict)
    control_scores: dict[str, tuple[float, ...]] = field(default_factory=dict)  # share -> the control's on that rung
    duels: dict[str, list[Duel]] = field(default_factory=dict)  # arm -> against the control, then against the baseline
    ended: dict[str, tuple[Verdict, str]] = field(default_factory=dict)
    qualified: list[Contender] = field(default_factory=list)
    winner: Contender | None = None

    def __post_init__(self) -> None:
        names = [self.baseline.arm, *(each.arm for each in self.contenders)]
        if self.baseline.arm != CONTROL or len(set(names)) < len(names):
            raise UsageError(f"arms need names of their own, the baseline's is {CONTROL!r}: {', '.join(names)}")
        self.controls = [self.baseline, *(each for each in self.contenders if each.line == CONTROL)]
        self.standing = [each for each in self.contenders if each.line != CONTROL]
        if not self.standing:
            raise UsageError("nothing to compare with the baseline", "name an arm that can be trained")
        for each in self.standing:
            if each.identity == self.baseline.identity:
                self.end(each, "reject", "it is the baseline: the same experiment")

    @property
    def control(self) -> Contender:
        """What the arms are compared with: the baseline, or after the first rung its best learning rate."""
        return self.controls[0]

    def ask(self, requests: Sequence[Request]) -> Steps:
        """Have run what was not run yet."""
        fresh = [request for request in dict.fromkeys(requests) if request not in self.known]
        if fresh:
            answers = yield fresh
            self.known.update({request: answers[request] for request in fresh})

    def end(self, contender: Contender, verdict: Verdict, reason: str) -> None:
        """It cannot win this sweep any more."""
        self.ended[contender.arm] = (verdict, reason)
        self.standing = [each for each in self.standing if each is not contender]

    def duel(self, control: Contender, contender: Contender) -> Duel:
        """The arm against a control, from where earlier sweeps left the two. What their first pair was judged by holds
        for all the others: to estimate the noise anew over the same differences, or to choose another gain for them,
        would be one more look that the stated rate knows nothing of."""
        evidence = self._known_of(control, contender)
        test = self._test(contender, self._terms(evidence), n_max=len(evidence.differences) + self.rule.n_max)
        return Duel(control, contender, replace(evidence, terms=self._terms(evidence)), test)

    def margin(self, contender: Contender) -> float:
        """What the arm may lose against the control: 0 unless it is cheaper, and never more than the lineage has left
        to give up; 0 also where so little is left that n_max pairs could not see it."""
        return self._test(contender, self._terms(self._known_of(self.control, contender))).margin

    def _known_of(self, control: Contender, contender: Contender) -> Evidence:
        """What names the pair, and so its fresh seeds, with what earlier sweeps found."""
        nothing = Evidence(0, control.identity, contender.identity, self.rule.metric)
        return self.evidence.get((control.identity, contender.identity), nothing)

    def _terms(self, evidence: Evidence) -> Terms:
        return evidence.terms or Terms(self.sigma, self.df, self.rule.gain(self.sigma))

    def _test(self, contender: Contender, terms: Terms, *, n_max: int | None = None) -> SequentialTest:
        """Is the arm better? Or, where it is cheaper by the declared factor: is it no worse?"""
        rule = self.rule
        better = replace(rule.test(terms.sigma, terms.df, self.rho, n_max=n_max), delta=terms.delta)
        if not rule.cost or contender.gain < rule.cost_factor:
            return better
        margin = min(rule.margin if rule.margin is not None else terms.delta, rule.margin_cap - self.given_up)
        if margin <= 0:
            return better
        no_worse = replace(better, delta=margin, margin=margin)
        found = characteristic(replace(no_worse, n_max=rule.n_max), 0.0)
        return no_worse if found.promoted > 0.5 else better

    def enter(self, duel: Duel, pairs: Sequence[Pair]) -> None:
        """Take in what was run for a duel, in the order of the seeds, up to its decision."""
        for pair in pairs:
            duel.pairs.append(scores(pair, self.known))
            if isinstance(failed := self.known[pair[1]], Failure):
                duel.failures.append(failed.reason)
            if duel.judgement.verdict is not None:
                return

    def require_scores(self) -> None:
        """Raises BaselineFailed where every run that confirms has failed, the control's and the arms': then it is not
        the arms' fault."""
        confirming = {request: outcome for request, outcome in self.known.items() if request.role == "confirm"}
        failed = {request: outcome for request, outcome in confirming.items() if isinstance(outcome, Failure)}
        if failed and len(failed) == len(confirming):
            request = next(each for each in failed if each.arm == self.control.arm)
            raise baseline_failed(failed[request], request)

    def judgement(self, contender: Contender) -> Judgement | None:
        """Of the arm against the control, None where no pair was run."""
        duel = next(iter(self.duels.get(contender.arm, ())), None)
        return duel.judgement if duel is not None and duel.differences else None

    def recall(self) -> None:
        """Take up what earlier sweeps found, as soon as it is clear what the control is: a pair that is decided costs
        nothing more."""
        if len(self.controls) > 1:
            return
        for each in list(self.standing):
            if each.arm not in self.duels:
                self.duels[each.arm] = [self.duel(self.control, each)]
                self.judge(each)

    def judge(self, contender: Contender) -> None:
        """What follows from the duel with the control, as far as it has come."""
        duel = self.duels[contender.arm][0]
        judgement = duel.judgement
        if judgement.verdict == "promote":
            self.qualified.append(contender)
            self.standing.remove(contender)
        elif judgement.verdict == "reject":
            self.end(contender, "reject", self.why_rejected(duel))
        elif judgement.verdict == "inconclusive":
            self.end(contender, "inconclusive", f"undecided: {figures(judgement)}; another sweep goes on from there")

    def why_rejected(self, duel: Duel) -> str:
        judgement = duel.judgement
        reason = f"{self.claim(duel, holds=False)}: {figures(judgement)}"
        return "; ".join([reason, *(f"its run failed: {each}" for each in duel.failures[:1])])

    def claim(self, duel: Duel, *, holds: bool = True) -> str:
        """What a duel is about, in words."""
        rule, test, contender = self.rule, duel.test, duel.candidate
        cheaper = bool(rule.cost) and contender.gain >= rule.cost_factor
        cost = f", with {rule.cost} {contender.gain:.3g} times lower" if cheaper else ""
        if test.margin:
            return f"{'' if holds else 'not '}within {test.margin:.4g} of the baseline{cost}"
        if cheaper:
            wanted = rule.margin if rule.margin is not None else test.delta
            left = max(0.0, min(wanted, rule.margin_cap - self.given_up))
            cost += f" but only {left:.4g} left that this may lose: too little to be seen in {rule.n_max} pairs"
        if not holds and duel.judgement.failed and test.has_won(duel.judgement):
            return f"better, but it failed more often than its controls{cost}"
        return ("better than the baseline" if holds else f"a gain of {test.delta:.4g} is unlikely") + cost


def baseline_failed(failure: Failure, request: Request) -> BaselineFailed:
    return BaselineFailed(
        f"the baseline itself failed {of_budget(request.share)}, with every seed; {request.seed}: {failure.reason}",
        f"try it alone: `foundry train --set seed={request.seed}`",
    )


def of_budget(share: Fraction) -> str:
    """`at 1/3 of the budget`."""
    return "at the full budget" if share == 1 else f"at {share} of the budget"


def disasters(duel: Duel) -> str:
    """What a promotion does not exclude, in words: after n pairs without one, a disaster in 1 - 0.05^(1/n) of the
    candidate's runs would have gone unseen with a probability of 5 %."""
    n = duel.judgement.n
    scored = [difference for difference in duel.differences[:n] if math.isfinite(difference)]
    worst = f"worst pair {min(scored):+.4f}; " if scored else ""
    return f"{worst}a disaster in fewer than {1 - 0.05 ** (1 / n):.0%} of its runs may not have shown"


def figures(judgement: Judgement) -> str:
    """`+0.0120 [+0.0010, +0.0250] (95 %) after 7 pairs`."""
    if judgement.n == 0:
        return "no pair was run"
    pairs = "1 pair" if judgement.n == 1 else f"{judgement.n} pairs"
    effect = "no median" if judgement.effect is None else f"{judgement.effect:+.4f}"
    failed = f", in {judgement.failed} of which its run failed" if judgement.failed else ""
    failed += f", in {judgement.control_failed} of which its control failed" if judgement.control_failed else ""
    return f"{effect} {judgement.interval or '(no interval yet)'} after {pairs}{failed}"
