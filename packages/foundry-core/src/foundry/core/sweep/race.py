"""What a sweep knows while it runs: who competes, what was run, what is decided. Its steps are in `screening` and
`confirmation`, which read top to bottom; here is what both of them need."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TypeAlias

from foundry.core.contracts import FoundryError, UsageError
from foundry.core.ledger.records import Evidence, Verdict, digest
from foundry.core.statistics.sequential import Judgement, SequentialTest
from foundry.core.sweep.conclusion import Screened
from foundry.core.sweep.request import CONTROL, Answers, Failure, Outcome, Request
from foundry.core.sweep.rule import Rule

Steps: TypeAlias = Generator[Sequence[Request], Answers, None]


class BaselineFailed(FoundryError):
    """A run of the baseline has no score: there is nothing to compare with."""


@dataclass(frozen=True)
class Contender:
    """An arm as a procedure sees it."""

    arm: str
    identity: str  # of its experiment
    family: str = ""  # arms that differ only in the learning rate: the best stands for all; "": the arm alone
    gain: float = 1.0  # baseline's cost / its cost on the rule's cost axis, > 1 = cheaper
    own_seeds: bool = False  # the baseline again under another name: with the same seeds it would be the same runs

    @property
    def line(self) -> str:
        return self.family or self.arm

    def seed(self, *purpose: str | int) -> int:
        """The seed for some purpose, which nobody chooses: 60 bits of a digest."""
        return int(digest(*(("null", self.identity) if self.own_seeds else ()), *purpose)[:15], 16)


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
    evidence: Mapping[tuple[str, str], Sequence[float]]
    given_up: float
    known: dict[Request, Outcome] = field(default_factory=dict)
    screened: dict[str, list[Screened]] = field(default_factory=dict)
    control_scores: dict[str, tuple[float, ...]] = field(default_factory=dict)  # share -> the control's on that rung
    differences: dict[str, list[float]] = field(default_factory=dict)  # with those of earlier sweeps
    pairs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # (baseline, candidate) of this sweep
    judged: dict[str, Judgement] = field(default_factory=dict)
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

    def control_score(self, request: Request) -> float:
        """Raises BaselineFailed where the run has no score."""
        outcome = self.known[request]
        if isinstance(outcome, Failure):
            raise BaselineFailed(
                f"the baseline itself failed, {of_budget(request.share)}, seed {request.seed}: {outcome.reason}",
                f"try it alone: `foundry train --set seed={request.seed}`",
            )
        return outcome

    def end(self, contender: Contender, verdict: Verdict, reason: str) -> None:
        """It cannot win this sweep any more."""
        self.ended[contender.arm] = (verdict, reason)
        self.standing = [each for each in self.standing if each is not contender]

    def earlier(self, contender: Contender) -> Sequence[float]:
        """Differences from the control that other sweeps found."""
        return self.evidence.get((self.control.identity, contender.identity), ())

    def test(self, contender: Contender) -> SequentialTest:
        """The test of one arm: is it better? Or, where it is cheaper by the declared factor: is it no worse?"""
        n_max = len(self.earlier(contender)) + self.rule.n_max
        better = self.rule.test(self.sigma, self.df, self.rho, n_max=n_max)
        margin = self.margin(contender)
        return replace(better, delta=margin, margin=margin) if margin else better

    def margin(self, contender: Contender) -> float:
        """What the arm may lose against the baseline: 0 unless it is cheaper, and never more than the lineage has left
        to give up; 0 also where so little is left that n_max pairs could not see it."""
        rule, better = self.rule, self.rule.test(self.sigma, self.df, self.rho)
        if not rule.cost or contender.gain < rule.cost_factor:
            return 0.0
        margin = min(rule.margin if rule.margin is not None else better.delta, rule.margin_cap - self.given_up)
        if margin <= 0 or replace(better, delta=margin, margin=margin).expected_pairs(0.0) > rule.n_max:
            return 0.0
        return margin

    def pair(self, contender: Contender) -> Evidence:
        """What names the pair, and so its fresh seeds."""
        return Evidence(0, self.control.identity, contender.identity, self.rule.metric)

    def recall(self) -> None:
        """Take up what earlier sweeps found, as soon as it is clear what the control is: a pair that is decided costs
        nothing more."""
        if len(self.controls) > 1:
            return
        for each in list(self.standing):
            if each.arm not in self.differences:
                self.differences[each.arm] = list(self.earlier(each))
                self.judge(each)

    def judge(self, contender: Contender) -> None:
        """The test's word on the differences so far."""
        judgement = self.test(contender).judge(self.differences[contender.arm])
        if judgement.n:
            self.judged[contender.arm] = judgement
        if judgement.verdict == "promote":
            self.qualified.append(contender)
            self.standing.remove(contender)
        elif judgement.verdict == "reject":
            self.end(contender, "reject", f"{self.claim(contender, holds=False)}: {figures(judgement)}")
        elif judgement.verdict == "inconclusive":
            self.end(contender, "inconclusive", f"undecided: {figures(judgement)}; another sweep goes on from there")

    def claim(self, contender: Contender, *, holds: bool = True) -> str:
        """What the test of an arm is about, in words."""
        rule, test = self.rule, self.test(contender)
        cheaper = bool(rule.cost) and contender.gain >= rule.cost_factor
        cost = f", with {rule.cost} {contender.gain:.3g} times lower" if cheaper else ""
        if test.margin:
            return f"{'' if holds else 'not '}within {test.margin:.4g} of the baseline{cost}"
        if cheaper:
            left = max(0.0, min(rule.margin or math.inf, rule.margin_cap - self.given_up))
            cost += f" but only {left:.4g} left that this may lose: too little to be seen in {rule.n_max} pairs"
        return ("better than the baseline" if holds else f"no gain of {test.delta:.4g}") + cost


def of_budget(share: Fraction) -> str:
    """`at 1/3 of the budget`."""
    return "at the full budget" if share == 1 else f"at {share} of the budget"


def figures(judgement: Judgement) -> str:
    """`+0.0120 [-0.0010, +0.0250] after 4 pairs`."""
    if judgement.effect is None:
        return "no pair was run"
    pairs = "1 pair" if judgement.n == 1 else f"{judgement.n} pairs"
    return f"{judgement.effect:+.4f} [{judgement.low:+.4f}, {judgement.high:+.4f}] after {pairs}"
