"""The spread between seeds: measured, pooled over groups of runs, and what it means for a difference of two runs."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from foundry.core.contracts import FoundryError, UsageError
from foundry.lab.decide.request import CONTROL, Answers, Contender, Failure, Request

NOISE_SEEDS = 8
"""Runs of the baseline that estimate the noise if it was not measured before: 7 degrees of freedom."""
FEW = 20
"""Degrees of freedom below which an estimate of sigma is not taken at face value."""


def inflation(df: int) -> float:
    """What a sigma of `df` degrees of freedom is multiplied with before arms are screened out or given up by it: 1.25
    for 6 runs or more, 2.1 for 3 runs, 4 for 2, and 1 from FEW on. No promotion depends on it."""
    return 1.0 if df >= FEW else max(1.25, 1 + 3 / max(df, 1) ** 1.5)


def pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """(sigma, degrees of freedom) of the values in groups that may differ in their means.

    sigma^2 = sum of squared deviations from the own group's mean / sum of (n - 1). Raises UsageError where no group
    has two values.
    """
    df = sum(len(group) - 1 for group in groups if group)
    if df < 1:
        raise UsageError("one run says nothing about the noise between seeds", "measure it with two seeds or more")
    squares = 0.0
    for group in groups:
        mean = math.fsum(group) / len(group) if group else 0.0
        squares += math.fsum((value - mean) ** 2 for value in group)
    return math.sqrt(squares / df), df


def pool(estimates: Sequence[tuple[float, int]]) -> tuple[float, int]:
    """One (sigma, df) of several that measure the same noise."""
    df = sum(freedom for _, freedom in estimates)
    if df < 1:
        raise UsageError("the noise between seeds was not measured here", "measure it with `foundry noise`")
    return math.sqrt(math.fsum(sigma**2 * freedom for sigma, freedom in estimates) / df), df


def cautious(sigma: float, df: int) -> float:
    """The sigma to decide with: larger than measured while it rests on few runs."""
    return sigma * inflation(df)


def sigma_of_difference(sigma: float, df: int, rho: float = 0.0) -> float:
    """Standard deviation of baseline - candidate at one seed: sigma sqrt(2 (1 - rho)), where the two runs of a pair
    have the correlation `rho`, with a cautious sigma. A rho < 0 cannot come from sharing a seed and counts as 0."""
    return cautious(sigma, df) * math.sqrt(2 * (1 - min(max(rho, 0.0), 0.95)))


def correlation(groups: Sequence[Sequence[tuple[float, float]]]) -> tuple[float, int]:
    """(rho, degrees of freedom) inside pairs of runs that share a seed, pooled over groups of pairs with means of their
    own: sum of products of deviations / sqrt(product of the sums of squares). (0, 0) where nothing varies."""
    xy = xx = yy = 0.0
    df = 0
    for pairs in groups:
        if len(pairs) < 2:
            continue
        df += len(pairs) - 1
        x0 = math.fsum(x for x, _ in pairs) / len(pairs)
        y0 = math.fsum(y for _, y in pairs) / len(pairs)
        xy += math.fsum((x - x0) * (y - y0) for x, y in pairs)
        xx += math.fsum((x - x0) ** 2 for x, _ in pairs)
        yy += math.fsum((y - y0) ** 2 for _, y in pairs)
    return (xy / math.sqrt(xx * yy), df) if xx > 0 and yy > 0 else (0.0, 0)


@dataclass(frozen=True)
class Spread:
    """The baseline over several seeds."""

    scores: tuple[float, ...]  # lower is better
    mean: float
    sigma: float  # standard deviation of one run
    df: int
    failures: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"scores": list(self.scores), "failures": list(self.failures)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Spread:
        """The spread that `to_json` wrote."""
        return cls(**{**values, "scores": tuple(values["scores"]), "failures": tuple(values["failures"])})


def noise_procedure(identity: str, seeds: int, arm: str = CONTROL) -> Generator[Sequence[Request], Answers, Spread]:
    """Train one arm on `seeds` seeds that no comparison uses. Raises UsageError for fewer than two, FoundryError where
    fewer than two runs have a score."""
    if seeds < 2:
        raise UsageError(f"{seeds} seed shows no spread between seeds", "take 8: --seeds 8")
    contender = Contender(arm, identity)
    requests = [Request(arm, contender.seed("noise", identity, i), "noise") for i in range(seeds)]
    answers = yield requests
    outcomes = [answers[request] for request in requests]
    failures = tuple(outcome.reason for outcome in outcomes if isinstance(outcome, Failure))
    scores = tuple(outcome for outcome in outcomes if not isinstance(outcome, Failure))
    if len(scores) < 2:
        raise FoundryError(
            f"{len(failures)} of {seeds} runs of {arm} failed: {failures[0]}",
            "mend it, then train them again: the same command with --retry",
        )
    sigma, df = pooled([scores])
    return Spread(scores, math.fsum(scores) / len(scores), sigma, df, failures)
