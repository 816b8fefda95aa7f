"""One arm against one control: pairs of runs at the same fresh seeds, and the test that they are for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

from foundry.lab.decide.request import Answers, Contender, Failure, Request
from foundry.lab.decide.sequential import Judgement, SequentialTest
from foundry.lab.ledger.records import Evidence

Pair: TypeAlias = tuple[Request, Request]
"""The control's run and the candidate's."""


def scores(pair: Pair, answers: Answers) -> tuple[float, float]:
    """What the two runs of a pair came to, lower is better. A run that failed is worse than any: inf."""
    control, candidate = (math.inf if isinstance(each, Failure) else each for each in map(answers.__getitem__, pair))
    return control, candidate


def difference(control: float, candidate: float) -> float:
    """> 0 = the candidate is better; nan where both failed, which tells nothing."""
    return math.nan if control == candidate == math.inf else control - candidate


@dataclass
class Duel:
    """How far a comparison has come."""

    control: Contender
    candidate: Contender
    evidence: Evidence  # what earlier sweeps found, and the terms by which it is judged
    test: SequentialTest
    pairs: list[tuple[float, float]] = field(default_factory=list)  # (control, candidate), what this sweep found
    failures: list[str] = field(default_factory=list)  # why runs of the candidate have no score

    @property
    def differences(self) -> tuple[float, ...]:
        """Control - candidate at the seeds 0, 1, ... of the pair, > 0 = better."""
        return (*self.evidence.differences, *(difference(*pair) for pair in self.pairs))

    @property
    def judgement(self) -> Judgement:
        """The test's word on the differences so far."""
        return self.test.judge(self.differences)

    def ahead(self, window: int) -> list[Pair]:
        """The next pairs, on the next unused seeds, as long as the test has room for them."""
        done, most = len(self.differences), self.test.n_max
        end = done + window if most is None else min(done + window, most)
        return [self._pair(i) for i in range(done, end)]

    def _pair(self, i: int) -> Pair:
        ours, arm = self.evidence, self.candidate
        seed = arm.seed("confirm", ours.pair, i) if arm.own_seeds else ours.seed(i)
        return Request(self.control.arm, ours.seed(i), "confirm"), Request(arm.arm, seed, "confirm")
