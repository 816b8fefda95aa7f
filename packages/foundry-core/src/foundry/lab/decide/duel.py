"""One arm against one control: pairs of runs at the same fresh seeds, and the test that they are for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from foundry.lab.decide.request import Answers, Contender, Failure, Request
from foundry.lab.decide.sequential import Judgement, SequentialTest
from foundry.lab.ledger.records import Evidence

Pair: TypeAlias = tuple[Request, Request]
"""The control's run and the candidate's."""


class BrokenPair(NamedTuple):
    """A pair that shows no difference, because one of its runs, or both, have no score."""

    seed: int
    control: Failure | None
    candidate: Failure | None


def scores(pair: Pair, answers: Answers) -> tuple[float, float] | BrokenPair:
    """What the two runs of a pair came to, lower is better."""
    control, candidate = (answers[request] for request in pair)
    if isinstance(control, Failure) or isinstance(candidate, Failure):
        failures = [each if isinstance(each, Failure) else None for each in (control, candidate)]
        return BrokenPair(pair[0].seed, *failures)
    return control, candidate


@dataclass
class Duel:
    """How far a comparison has come."""

    control: Contender
    candidate: Contender
    evidence: Evidence  # what earlier sweeps found, and the terms by which it is judged
    test: SequentialTest
    pairs: list[tuple[float, float]] = field(default_factory=list)  # (control, candidate), what this sweep found

    @property
    def differences(self) -> tuple[float, ...]:
        """Control - candidate at the seeds 0, 1, ... of the pair, > 0 = better."""
        return (*self.evidence.differences, *(control - candidate for control, candidate in self.pairs))

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
