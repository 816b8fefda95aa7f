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

from foundry.core.sweep.procedure import sweep_procedure
from foundry.core.sweep.race import Contender
from foundry.core.sweep.request import CONTROL, Answers, Outcome, Request
from foundry.core.sweep.rule import Rule

Ending = TypeVar("Ending")
NORMAL = NormalDist()


@dataclass(frozen=True)
class World:
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

    def _draw(self, *what: object) -> float:
        """A standard normal that is a function of `what`."""
        name = "\0".join(map(str, (self.number, *what)))
        uniform = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        return NORMAL.inv_cdf((uniform + 0.5) / 2**64)


def play(procedure: Generator[Sequence[Request], Answers, Ending], answer: Callable[[Request], Outcome]) -> Ending:
    """Run a procedure to its end with somebody who answers at once."""
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
    best: float  # the arm with the largest true gain
    harmful: float  # an arm with a true gain <= 0
    runs: float  # mean number of runs
    cost: float  # mean training, in full budgets


def simulate(
    rule: Rule, sigma: float, df: int, gains: Sequence[float], rounds: int, *, estimated: bool = False, **world: float
) -> Rates:
    """Many sweeps with one arm per gain. `df` is what the rule is told; where sigma is `estimated` each sweep is told
    another one, as it would come out of df + 1 runs."""
    arms = [Contender(f"arm {k}", f"arm {k}") for k in range(len(gains))]
    truth = {each.arm: gain for each, gain in zip(arms, gains, strict=True)}
    top = max(gains, default=0.0)
    promoted = best = harmful = runs = 0
    cost = Fraction(0)
    for number in range(rounds):
        nature = World(sigma, truth, number=number, **world)
        told = _estimate(nature, df) if estimated else sigma
        end = play(sweep_procedure(Contender(CONTROL, f"baseline {number}"), arms, rule, told, df), nature)
        runs, cost = runs + end.runs, cost + end.cost
        if end.winner is not None:
            promoted += 1
            best += truth[end.winner] == top > 0
            harmful += truth[end.winner] <= 0
    return Rates(rounds, promoted / rounds, best / rounds, harmful / rounds, runs / rounds, float(cost / rounds))


def _estimate(world: World, df: int) -> float:
    """The standard deviation of df + 1 runs."""
    values = [world._draw("noise", i) for i in range(df + 1)]
    mean = math.fsum(values) / len(values)
    return world.sigma * math.sqrt(math.fsum((value - mean) ** 2 for value in values) / df)
