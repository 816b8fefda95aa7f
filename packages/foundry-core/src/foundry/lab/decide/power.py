"""What a test can find: how likely it promotes a candidate of some true gain, and how many pairs that takes.

For one sequential test with its `n_max`, by simulated pairs; for whole sweeps by simulation of the procedure that runs
for real, in `foundry.lab.decide.simulate`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from foundry.core.contracts import UsageError
from foundry.lab.decide.sequential import SequentialTest

TESTS = 400
"""Simulated ones: a power of 80 % is then known within 4 points. They are the same for every gain, so that a larger one
is never found less often."""


@dataclass(frozen=True)
class Characteristic:
    """What becomes of a candidate whose true gain is known."""

    promoted: float  # probabilities
    rejected: float
    inconclusive: float
    pairs: float  # expected number of pairs until the decision


@lru_cache(maxsize=1024)
def characteristic(test: SequentialTest, gain: float, spread: float | None = None, df: int = 0) -> Characteristic:
    """The test's operating characteristic at a true mean difference, in the metric's unit, where noise is normal.

    Args:
        spread: standard deviation of one difference; by default what the test expects.
        df: degrees of freedom that it rests on: the true one is as uncertain as that says. 0: it is known.

    Raises:
        UsageError: a test without `n_max`, which may never end.
    """
    if test.n_max is None:
        raise UsageError("a test without n_max may never end")
    draw, ends = random.Random(0), []
    for _ in range(TESTS):
        sigma = (spread or test.sigma_d) * (math.sqrt(df / draw.gammavariate(df / 2, 2)) if df else 1.0)
        ends.append(test.decide([gain + sigma * draw.gauss(0, 1) for _ in range(test.n_max)]))
    share = {name: sum(verdict == name for verdict, _, _ in ends) / TESTS for name in ("promote", "reject")}
    pairs = sum(n for _, n, _ in ends) / TESTS
    return Characteristic(share["promote"], share["reject"], 1 - sum(share.values()), pairs)


def smallest_decidable(
    test: SequentialTest, power: float = 0.8, spread: float | None = None, df: int = 0
) -> float | None:
    """The smallest true gain that `test` promotes with probability `power`, to 2 %; None: it has too few pairs for any.
    `spread` and `df` are those of `characteristic`."""
    unit = test.delta
    sigma_d, margin, noise = (float(f"{value / unit:.4g}") for value in (test.sigma_d, test.margin, spread or 0.0))
    found = _in_deltas(replace(test, delta=1.0, sigma_d=sigma_d, margin=margin), power, noise or None, df)
    return None if found is None else unit * found


@cache
def _in_deltas(test: SequentialTest, power: float, spread: float | None, df: int) -> float | None:
    """What depends on no unit is found once for all tests of these proportions: it takes up to 0.5 s."""

    def is_found(gain: float) -> bool:
        return characteristic(test, gain, spread, df).promoted >= power

    low, high = 0.0, test.delta
    while not is_found(high):
        low, high = high, 2 * high
        if high > 1e6 * test.delta:
            return None
    while high - low > 0.02 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return high
