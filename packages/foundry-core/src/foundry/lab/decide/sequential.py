"""When are paired differences enough? A test by betting, which is valid for noise of any shape, and an interval that
survives the stopping.

d_i = baseline - candidate at the pair's seed i, > 0 = better. Each pair has a score

    s_i = clip(d_i, -c, c) / c,  c = delta,

and H0 is that the mean of the scores is 0 or less: that the candidate gains nothing, where no single pair counts for
more than delta. Somebody who bets a share b of what he has on each pair has

    W_n(b) = product over i <= n of (1 + b s_i)

after n pairs, if he began with 1. Under H0 no bet gains in the mean, whatever the distribution of the differences,
however they spread, and whether they are alike: W is a nonnegative supermartingale, and so is its mean over the BETS.
By Ville's inequality P(W ever >= comparisons / alpha) <= alpha / comparisons, whatever the number of looks, and however
often a sweep is interrupted or continued (Waudby-Smith and Ramdas, 2024, doi:10.1093/jrsssb/qkad009, arXiv:2010.09686).
So a candidate is promoted as soon as W is so large. `comparisons` candidates together are wrong with probability <=
alpha (Bonferroni). Nothing but the pairs themselves enters: not the noise of the baseline, which may be another than
the candidate's.

The price is a least number of pairs: with every pair won by delta or more W is (1.5^n + 1.9^n + 1.99^n) / 3, which
passes 40 at the sixth. `benchmarks/decisions.py bent` has what it takes.

A run that failed is worse than any score: a pair whose candidate failed counts as lost (-1), one whose control failed
as won (+1), both as 0, whatever the margin. They are differences of -inf, inf and nan. A candidate that failed more
often than its controls is not promoted.

To give up costs power, and no error. It is done as soon as a gain of delta is 1 / beta times less likely than none, for
clipped differences taken as normal (Wald, 1945, doi:10.1214/aoms/1177731118), with the larger of the spread that the
baseline's noise lets expect and their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from statistics import median

from foundry.core.contracts import UsageError
from foundry.lab.ledger.records import Verdict, span

BETS = (0.5, 0.9, 0.99)
"""Shares of what one has that are put on each pair, a third of the stake for each. The bold ones win in six pairs what
is clearly better, the careful one survives a pair that is lost."""


@dataclass(frozen=True)
class Judgement:
    """What some differences say. Effects are in the metric's unit, `n` is where the test ended."""

    verdict: Verdict | None  # None: go on
    llr: float  # ln W, after n pairs: in nats, what speaks against H0
    n: int  # pairs that count: those after the decision are ignored
    effect: float | None = None  # median difference; None: half of the runs have no score
    low: float | None = None  # of the interval for the median; None: too early to say
    high: float | None = None
    confidence: float = 0.95  # that the interval holds the true median, at every n at once
    failed: int = 0  # of the n pairs, those whose candidate alone has no score
    control_failed: int = 0  # and those whose control alone has none

    @property
    def interval(self) -> str:
        """Where the true difference lies, in words; see `span`."""
        return span(self.low, self.high, self.confidence)


@dataclass(frozen=True)
class SequentialTest:
    """H0: the candidate gains nothing, pair by pair, where a pair counts for no more than `delta`.

    `margin` > 0 makes it a test of non-inferiority: H0: it is worse by `margin`, in the same sense: a pair that is lost
    by more counts for no more. Raises UsageError for values with which nothing can be decided.
    """

    delta: float  # the gain to be found, and the most that one pair counts for: fixed before the first of them
    sigma_d: float  # standard deviation of one paired difference, as the baseline's noise lets expect: only to give up
    alpha: float = 0.05
    beta: float = 0.1
    n_max: int | None = None  # pairs after which an undecided test is inconclusive
    comparisons: int = 1
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not (self.sigma_d > 0 and math.isfinite(self.sigma_d)):
            raise UsageError(
                f"the noise between seeds is {self.sigma_d:g}: no test can be made with it",
                "if seeds really change nothing, one run decides and there is nothing to test; "
                "otherwise measure it again with `foundry noise`",
            )
        if not self.delta > 0:
            raise UsageError(f"delta is {self.delta:g}: the gain to be found must be > 0")

    @property
    def promote_at(self) -> float:
        """W from which on H0 is given up."""
        return self.comparisons / self.alpha

    def has_won(self, judged: Judgement) -> bool:
        """Whether enough was won by betting on the candidate: it is promoted, unless it failed too often."""
        return math.exp(judged.llr) >= self.promote_at * (1 - 1e-9)

    @property
    def confidence(self) -> float:
        """Of the interval: each side is wrong with probability <= alpha / comparisons."""
        return 1 - 2 * self.alpha / self.comparisons

    def score(self, difference: float) -> float:
        """What one pair counts for, in [-1, 1]."""
        if math.isnan(difference):
            return 0.0
        return min(1.0, max(-1.0, (difference + self.margin) / self.delta))

    def judge(self, differences: Sequence[float]) -> Judgement:
        """The first decision that `differences`, in their order, lead to; what comes after it is ignored."""
        verdict, n, won = self.decide(differences)
        if n == 0:
            return Judgement(None, 0.0, 0, confidence=self.confidence)
        seen = _told(differences[:n])
        low, high = self.interval(seen)
        return Judgement(
            verdict=verdict,
            llr=math.log(won),
            n=n,
            effect=_finite(median(seen)) if seen else None,
            low=low,
            high=high,
            confidence=self.confidence,
            failed=seen.count(-math.inf),
            control_failed=seen.count(math.inf),
        )

    def decide(self, differences: Sequence[float]) -> tuple[Verdict | None, int, float]:
        """(verdict, the pairs that it took, W after them): no more than is needed to decide."""
        stakes, total, squares, failed, won = [1.0] * len(BETS), 0.0, 0.0, 0, 1.0
        for n, difference in enumerate(differences, 1):
            score = self.score(difference)
            stakes = [stake * (1 + bet * score) for stake, bet in zip(stakes, BETS, strict=True)]
            won = math.fsum(stakes) / len(BETS)
            total, squares = total + score, squares + score * score
            failed += (difference == -math.inf) - (difference == math.inf)
            if won >= self.promote_at:
                return "reject" if failed > 0 else "promote", n, won
            if self._is_hopeless(n, total, squares):
                return "reject", n, won
            if self.n_max is not None and n >= self.n_max:
                return "inconclusive", n, won
        return None, len(differences), won

    def _is_hopeless(self, n: int, total: float, squares: float) -> bool:
        """Whether a gain of delta has become 1 / beta times less likely than none. In units of delta."""
        spread = (squares - total**2 / n) / (n - 1) if n > 1 else 0.0
        return (total - n / 2) / max((self.sigma_d / self.delta) ** 2, spread) <= math.log(self.beta)

    def interval(self, differences: Sequence[float]) -> tuple[float | None, float | None]:
        """An always-valid confidence interval (a confidence sequence) for the median difference: with probability >=
        `confidence` it holds the true one at every n at once, so also at the n at which the test stops.

        It inverts the same bets on the signs: of m, the median would be larger if more pairs lie above it than chance
        allows. After the first six pairs it is their range, at 95 %; before that there is none. None also where an end
        is a run without a score.
        """
        low, high, told = -math.inf, math.inf, _told(differences)
        for n in range(1, len(told) + 1):
            if (beyond := _allowed(n, self.promote_at)) is not None:
                ranked = sorted(told[:n])
                low, high = max(low, ranked[beyond]), min(high, ranked[n - 1 - beyond])
        return (None, None) if low > high else (_finite(low), _finite(high))


def least_pairs(needed: float) -> int:
    """Pairs, all won by delta or more, after which the bets have made `needed` of 1."""
    return next(n for n in count(1) if _allowed(n, needed) is not None)


def _allowed(n: int, needed: float) -> int | None:
    """Of n pairs, how many may lie on the wrong side of a median which the bets refuse all the same; None: not even
    where none does."""
    found = None
    for wrong in range(n // 2 + 1):
        grown = [(1 + bet) ** (n - wrong) * (1 - bet) ** wrong for bet in BETS]
        if math.fsum(grown) / len(BETS) < needed:
            break
        found = wrong
    return found


def _told(differences: Sequence[float]) -> list[float]:
    """Those of pairs in which at least one run has a score."""
    return [each for each in differences if not math.isnan(each)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
