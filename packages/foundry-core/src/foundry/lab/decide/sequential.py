"""When are paired differences enough? A sequential likelihood-ratio test, and an interval that survives the stopping.

d_i = baseline - candidate at the pair's seed i, > 0 = better, taken as independent normals N(mu, sigma_d^2) of known
sigma_d. The log likelihood ratio of mu = delta against mu = 0 after n pairs is

    LLR_n = sum over i <= n of (delta * d_i - delta^2 / 2) / sigma_d^2

promote as soon as LLR >= ln(comparisons / alpha), reject as soon as LLR <= ln(beta) (Wald, 1945, doi:10.1214/aoms/
1177731118). exp(LLR) is a nonnegative martingale of mean 1 where mu = 0, and a supermartingale where mu < 0, so by
Ville's inequality P(ever promoted | mu <= 0) <= alpha / comparisons, whatever the number of looks, and however often
a sweep is interrupted or continued; `comparisons` candidates together are wrong with probability <= alpha
(Bonferroni). In the same way P(ever rejected | mu >= delta) <= beta.

A candidate may be as good as the baseline and much noisier, and then sigma_d, which the baseline's runs told, is too
small: with twice the noise 15 % of such candidates would be promoted where 5 % are stated, with ten times 44 %. So a
test may ask for some pairs before a promotion (`least`), and divide the LLR by their own variance, taken as cautiously
as any sigma of so few runs, where that is larger. It can only promote less often than the bound above allows. Wald's
approximations of the two, and of how long
it takes, are in `foundry.lab.decide.power`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from foundry.core.contracts import UsageError
from foundry.lab.decide.noise import cautious
from foundry.lab.ledger.records import Verdict, span


@dataclass(frozen=True)
class Judgement:
    """What some differences say. All figures are in the metric's unit, `n` is where the test ended."""

    verdict: Verdict | None  # None: go on
    llr: float  # in nats, after n pairs
    n: int  # pairs that count: those after the decision are ignored
    effect: float | None = None  # mean difference; a test that stops at a success overstates it, the interval does not
    low: float | None = None  # of the always-valid interval
    high: float | None = None
    confidence: float = 0.95  # that the interval holds the true difference, at every n at once

    @property
    def interval(self) -> str:
        """Where the true difference lies, in words; see `span`."""
        return span(self.low, self.high, self.confidence)


@dataclass(frozen=True)
class SequentialTest:
    """H0: the candidate is no better than the baseline, against H1: it is better by `delta`.

    `margin` > 0 makes it a test of non-inferiority: H0: worse by `margin`, against H1: better than that by `delta`.
    Raises UsageError for values with which nothing can be decided.
    """

    delta: float
    sigma_d: float  # standard deviation of one paired difference
    alpha: float = 0.05
    beta: float = 0.1
    n_max: int | None = None  # pairs after which an undecided test is inconclusive
    comparisons: int = 1
    margin: float = 0.0
    least: int = 1  # pairs before a promotion; > 1: where they differ by more than sigma_d says, they are believed

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
        """LLR in nats from which on H0 is given up."""
        return math.log(self.comparisons / self.alpha)

    @property
    def reject_at(self) -> float:
        return math.log(self.beta)

    @property
    def confidence(self) -> float:
        """Of the interval: each side is wrong with probability <= alpha / comparisons."""
        return 1 - 2 * self.alpha / self.comparisons

    def judge(self, differences: Sequence[float]) -> Judgement:
        """The first decision that `differences`, in their order, lead to; what comes after it is ignored."""
        llr, total, squares, n, sigma = 0.0, 0.0, 0.0, 0, self.sigma_d
        verdict: Verdict | None = None
        for difference in differences:
            before = total / n if n else difference
            n += 1
            total += difference
            squares += (difference - before) * (difference - total / n)  # Welford's sum of squared deviations
            sigma = self._believed(squares, n)
            llr += self.delta * (difference + self.margin - self.delta / 2) / self.sigma_d**2
            if n >= self.least and llr * (self.sigma_d / sigma) ** 2 >= self.promote_at:
                verdict = "promote"
            elif llr <= self.reject_at:
                verdict = "reject"
            elif self.n_max is not None and n >= self.n_max:
                verdict = "inconclusive"
            if verdict is not None:
                break
        if n == 0:
            return Judgement(None, 0.0, 0, confidence=self.confidence)
        low, high = self.interval(total / n, n, sigma)
        return Judgement(verdict, llr, n, total / n, low, high, self.confidence)

    def _believed(self, squares: float, n: int) -> float:
        """The standard deviation of a difference that a promotion has to stand."""
        if self.least == 1 or n == 1:
            return self.sigma_d
        return max(self.sigma_d, cautious(math.sqrt(squares / (n - 1)), n - 1))

    def interval(self, mean: float, n: int, sigma: float | None = None) -> tuple[float, float]:
        """An always-valid confidence interval (a confidence sequence: Howard et al., 2021, arXiv:1810.08240): with
        probability >= `confidence` it holds the true difference at every n at once, so also at the n at which somebody
        chose to stop. It inverts this very test, with each value in turn as its H0:

            mean -+ (delta / 2 + sigma_d^2 ln(comparisons / alpha) / (n delta))

        so that its lower end is >= -margin exactly when the test promotes, once it may. `sigma` stands for sigma_d
        where the pairs differ by more. The price against the interval of a fixed n (1.96 sigma_d / sqrt(n)) is a width
        that shrinks to delta, not to 0.
        """
        half = self.delta / 2 + (sigma or self.sigma_d) ** 2 * self.promote_at / (n * self.delta)
        return mean - half, mean + half

    def expected_pairs(self, mu: float) -> float:
        """About how many pairs a decision takes where the true difference is `mu`: Wald's approximation, which takes
        the LLR to end on a boundary and not past it (so it errs low), without `n_max`."""
        drift = self.delta * (mu + self.margin - self.delta / 2) / self.sigma_d**2
        if drift == 0:
            return -self.promote_at * self.reject_at / (self.delta / self.sigma_d) ** 2
        won = self.chance(mu)
        return (won * self.promote_at + (1 - won) * self.reject_at) / drift

    def chance(self, mu: float) -> float:
        """About how likely a promotion is where the true difference is `mu`: Wald's approximation of the operating
        characteristic, without `n_max`. At mu = -margin it is below alpha / comparisons."""
        h = 1 - 2 * (mu + self.margin) / self.delta
        if h == 0:
            return -self.reject_at / (self.promote_at - self.reject_at)
        upper, lower = h * self.promote_at, h * self.reject_at
        if upper > 700 or lower > 700:  # exp() would overflow; the answer is 0 or 1 to 300 digits
            return 0.0 if h > 0 else 1.0
        return (1 - math.exp(lower)) / (math.exp(upper) - math.exp(lower))
