"""What a test can find: how likely it promotes a candidate of some true gain, and how many pairs that takes.

For one sequential test with its `n_max`, by arithmetic; for whole sweeps by simulation of the procedure that runs for
real, in `foundry.lab.decide.simulate`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from operator import mul
from statistics import NormalDist

from foundry.core.contracts import UsageError
from foundry.lab.decide.sequential import SequentialTest

CELLS = 100
"""Into which the undecided LLRs are cut: within 0.004 of 20,000 simulated tests."""


@dataclass(frozen=True)
class Characteristic:
    """What becomes of a candidate whose true gain is known."""

    promoted: float  # probabilities
    rejected: float
    inconclusive: float
    pairs: float  # expected number of pairs until the decision


def characteristic(test: SequentialTest, gain: float) -> Characteristic:
    """The test's operating characteristic at a true mean difference, in the metric's unit. The LLR is a random walk
    with normal steps between two absorbing boundaries; it is followed as a Markov chain over cells of LLR
    (Brook & Evans, 1972, doi:10.2307/2334805). Of `least` it counts the pairs; that a spread which looks large by
    chance delays a promotion, and prevents up to 1 in 100, it does not know. Raises UsageError for a test without
    `n_max`."""
    if test.n_max is None:
        raise UsageError("a test without n_max may never end")
    low, high = test.reject_at, test.promote_at
    width = (high - low) / CELLS
    step = NormalDist(
        test.delta * (gain + test.margin - test.delta / 2) / test.sigma_d**2,
        test.delta / test.sigma_d,
    )
    # Below[k]: the chance that a step is less than k - 1/2 cells, from the middle of one to the edge of another.
    below = {k: step.cdf((k - 0.5) * width) for k in range(-CELLS, CELLS + 2)}
    moves = [below[k + 1] - below[k] for k in range(CELLS, -CELLS, -1)]
    into = [moves[CELLS - to : 2 * CELLS - to] for to in range(CELLS)]  # a cell, from each of them

    promoted = 1 - step.cdf(high)
    rejected = step.cdf(low)
    undecided = [step.cdf(low + (cell + 1) * width) - step.cdf(low + cell * width) for cell in range(CELLS)]
    pairs = 1.0
    for done in range(1, test.n_max):
        pairs += sum(undecided) + (promoted if done < test.least else 0.0)
        promoted += sum(mass * (1 - below[CELLS - cell]) for cell, mass in enumerate(undecided))
        rejected += sum(mass * below[-cell] for cell, mass in enumerate(undecided))
        undecided = [sum(map(mul, undecided, chances)) for chances in into]
    return Characteristic(promoted, rejected, sum(undecided), pairs)


def smallest_decidable(test: SequentialTest, power: float = 0.8) -> float:
    """The smallest true gain that `test` promotes with probability `power`, to 1 %."""
    unit = test.delta
    spread, margin = (float(f"{value / unit:.4g}") for value in (test.sigma_d, test.margin))
    return unit * _in_deltas(replace(test, delta=1.0, sigma_d=spread, margin=margin), power)


@cache
def _in_deltas(test: SequentialTest, power: float) -> float:
    """What depends on no unit is found once for all tests of these proportions: it takes up to 0.5 s."""
    low, high = 0.0, test.delta
    while characteristic(test, high).promoted < power:
        low, high = high, 2 * high
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if characteristic(test, middle).promoted >= power else (middle, high)
    return high
