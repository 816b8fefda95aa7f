"""Sweeps without training: the same procedures, answered with random numbers of which the truth is known.

That is how a rule's rates are known before it is trusted: `foundry sweep --null --simulate`, the power table of
`foundry noise`, benchmarks/decisions.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import TypeVar

from foundry.lab.decide.conclusion import Conclusion
from foundry.lab.decide.noise import pooled
from foundry.lab.decide.procedure import null_procedure, sweep_procedure
from foundry.lab.decide.request import CONTROL, Answers, Contender, Outcome, Request
from foundry.lab.decide.rule import Rule

Ending = TypeVar("Ending")
NORMAL = NormalDist()


@dataclass(frozen=True)
class SimulatedWorld:
    """Arms whose true gains are known, and runs that differ from the truth by Gaussian noise. The same request has the
    same outcome whenever it is asked."""

    sigma: float  # standard deviation of a run over seeds
    gains: Mapping[str, float]  # arm -> baseline's loss - its loss with the full budget, > 0 = better; 0 where absent
    rho: float = 0.0  # correlation of two arms' runs that share a seed
    fidelity: float = 1.0  # correlation of gains with a third of the budget with those with all of it
    spread: float = 0.01  # standard deviation of what the gain with a part of the budget has of its own
    number: int = 0  # another world, all else equal
    loss: float = 3.0  # of the baseline

    def __call__(self, request: Request) -> Outcome:
        share, seed = str(request.share), request.seed
        common = math.sqrt(self.rho) * self._draw("seed", share, seed) if self.rho else 0.0
        own = math.sqrt(1 - self.rho) * self._draw(request.arm, share, seed)
        return self.loss - self.gain(request.arm, request.share) + self.sigma * (common + own)

    def gain(self, arm: str, share: Fraction) -> float:
        """What is true of an arm with a share of the budget. Each third of it multiplies the correlation with the
        truth at the full budget by `fidelity`."""
        truth = self.gains.get(arm, 0.0)
        if self.fidelity == 1.0 or share == 1 or arm == CONTROL:
            return truth
        kept = self.fidelity ** math.log(1 / share, 3)
        return kept * truth + math.sqrt(1 - kept**2) * self.spread * self._draw("truth", arm, share)

    def told(self, df: int) -> float:
        """The sigma that a measurement with df + 1 runs would give."""
        return pooled([[self.sigma * self._draw("noise", i) for i in range(df + 1)]])[0]

    def _draw(self, *what: object) -> float:
        """A standard normal that is a function of `what`."""
        name = "\0".join(map(str, (self.number, *what)))
        uniform = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        return NORMAL.inv_cdf((uniform + 0.5) / 2**64)


def play(procedure: Generator[Sequence[Request], Answers, Ending], answer: Callable[[Request], Outcome]) -> Ending:
    """Run a procedure to its end with answers that come at once."""
    try:
        requests = next(procedure)
        while True:
            requests = procedure.send({request: answer(request) for request in requests})
    except StopIteration as end:
        return end.value


@dataclass(frozen=True)
class Rates:
    """What came of many simulated sweeps, as shares of them."""

    rounds: int
    promoted: float  # any arm
    best: float  # the arm with the largest true gain, which is > 0
    harmful: float  # an arm whose true gain is <= 0: a false promotion
    survived: float  # the arm with the largest true gain was a finalist
    runs: float  # mean number of runs
    screening: float  # mean training for screening, in full budgets
    cost: float  # mean training, in full budgets

    @classmethod
    def of(cls, ends: Sequence[Conclusion], gains: Mapping[str, float]) -> Rates:
        """Count conclusions of sweeps whose arms have these true gains."""
        top, rounds = max(gains, key=gains.__getitem__), len(ends)
        winners = [end.winner for end in ends if end.winner is not None]
        return cls(
            rounds,
            promoted=len(winners) / rounds,
            best=sum(gains[winner] == gains[top] > 0 for winner in winners) / rounds,
            harmful=sum(gains[winner] <= 0 for winner in winners) / rounds,
            survived=sum(end.arm(top).judgement is not None for end in ends) / rounds,
            runs=sum(end.runs for end in ends) / rounds,
            screening=float(sum(map(_screening, ends)) / rounds),
            cost=float(sum(end.cost for end in ends) / rounds),
        )


def _screening(end: Conclusion) -> Fraction:
    """What screening cost, each run from its beginning."""
    control = sum((Fraction(share) * len(scores) for share, scores in end.controls.items()), Fraction(0))
    return control + sum(seen.share * seen.n for arm in end.arms for seen in arm.screening)


def simulate(rule: Rule, df: int, worlds: Sequence[SimulatedWorld], *, estimated: bool = False) -> Rates:
    """One sweep in each world, between the baseline and the arms that the worlds name (the same in all of them). The
    sweep is told the true sigma and that it has `df` degrees of freedom; or, where it is `estimated`, what comes out
    of df + 1 runs."""
    gains = worlds[0].gains
    arms = [Contender(arm, arm) for arm in gains]
    ends = []
    for world in worlds:
        baseline, sigma = Contender(CONTROL, f"{CONTROL} {world.number}"), world.told(df) if estimated else world.sigma
        ends.append(play(sweep_procedure(baseline, arms, rule, sigma, df, rho=world.rho), world))
    return Rates.of(ends, gains)


def simulate_null(rule: Rule, sigma: float, df: int, *, arms: int, rounds: int, estimated: bool = False) -> Rates:
    """Null sweeps, in which every promotion is a false one."""
    ends = []
    for number in range(rounds):
        world = SimulatedWorld(sigma, {}, number=number)
        told = world.told(df) if estimated else sigma
        ends.append(play(null_procedure(CONTROL, arms, rule, told, df, round=number), world))
    return Rates.of(ends, {arm.arm: 0.0 for arm in ends[0].arms})
