"""The arithmetic of a decision, against closed forms, other ways to compute it, and the truth of simulated worlds."""

import math
import random
import statistics
from dataclasses import replace
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry.core.contracts import UsageError
from foundry.lab.decide.noise import FEW, correlation, inflation, pool, pooled, sigma_of_difference
from foundry.lab.decide.power import characteristic, smallest_decidable
from foundry.lab.decide.sequential import SequentialTest
from foundry.lab.decide.simulate import SimulatedWorld

TEST = SequentialTest(delta=0.01, sigma_d=0.007, alpha=0.05, beta=0.1, comparisons=2)
small = st.floats(-0.05, 0.05)
tests = st.builds(
    SequentialTest,
    delta=st.floats(0.002, 0.05),
    sigma_d=st.floats(0.002, 0.05),
    alpha=st.floats(0.001, 0.2),
    beta=st.floats(0.01, 0.3),
    comparisons=st.integers(1, 5),
    margin=st.sampled_from([0.0, 0.01]),
)


@given(st.lists(small, min_size=1, max_size=6))
def test_the_llr_is_the_ratio_of_two_normal_densities(differences):
    judged = TEST.judge(differences)
    better, equal = NormalDist(TEST.delta, TEST.sigma_d), NormalDist(0, TEST.sigma_d)
    densities = (better.pdf(each) / equal.pdf(each) for each in differences[: judged.n])
    assert judged.llr == pytest.approx(math.log(math.prod(densities)), abs=1e-6)


def test_the_boundaries_are_walds():
    one = TEST.sigma_d**2 / TEST.delta  # the difference that moves the LLR by 1, beyond the drift
    at = one * math.log(2 / 0.05) + TEST.delta / 2
    assert TEST.judge([at + 1e-9]).verdict == "promote"
    assert TEST.judge([at - 1e-9]).verdict is None
    at = one * math.log(0.1) + TEST.delta / 2
    assert TEST.judge([at - 1e-9]).verdict == "reject"
    assert TEST.judge([at + 1e-9]).verdict is None


def test_walds_closed_forms():
    """At H0 and H1 the operating characteristic has a closed form, and halfway the walk has no drift."""
    upper, lower = 2 / 0.05, 0.1
    assert TEST.chance(0.0) == pytest.approx((1 - lower) / (upper - lower))
    assert TEST.chance(TEST.delta) == pytest.approx((1 / lower - 1) / (1 / lower - 1 / upper))
    assert TEST.chance(TEST.delta / 2) == pytest.approx(math.log(1 / lower) / math.log(upper / lower))
    assert TEST.chance(1000.0) == 1.0
    assert TEST.chance(-1000.0) == 0.0


@pytest.mark.parametrize("gain", [0.0, 0.005, 0.01])
def test_wald_and_the_markov_chain_agree_where_steps_are_small(gain):
    """With small steps the walk hardly jumps past its boundaries, which is what Wald neglects."""
    test = SequentialTest(delta=0.01, sigma_d=0.04, alpha=0.05, beta=0.1, n_max=500)
    exact = characteristic(test, gain)
    assert exact.promoted == pytest.approx(test.chance(gain), abs=0.02)
    assert exact.pairs == pytest.approx(test.expected_pairs(gain), rel=0.15)


def test_one_pair_is_a_plain_normal_test():
    test = SequentialTest(0.01, 0.007, n_max=1)
    outcome = characteristic(test, 0.004)
    bound = 0.007**2 / 0.01 * math.log(1 / 0.05) + 0.005
    assert outcome.promoted == pytest.approx(1 - NormalDist(0.004, 0.007).cdf(bound))
    assert outcome.promoted + outcome.rejected + outcome.inconclusive == pytest.approx(1)
    assert outcome.pairs == 1


def test_the_markov_chain_counts_what_simulated_tests_do():
    test, draw, rounds = SequentialTest(0.01, 0.007, comparisons=2, n_max=16), random.Random(1), 8000
    ends = [test.judge([draw.gauss(0.006, 0.007) for _ in range(16)]) for _ in range(rounds)]
    exact = characteristic(test, 0.006)
    for verdict, share in (("promote", exact.promoted), ("reject", exact.rejected)):
        assert sum(end.verdict == verdict for end in ends) / rounds == pytest.approx(share, abs=0.02)
    assert sum(end.n for end in ends) / rounds == pytest.approx(exact.pairs, rel=0.03)


def test_the_smallest_decidable_gain_is_decided():
    test = SequentialTest(0.01, 0.007, comparisons=2, n_max=16)
    gain = smallest_decidable(test, power=0.8)
    assert characteristic(test, gain).promoted >= 0.8 > characteristic(test, 0.97 * gain).promoted


def test_looking_after_every_pair_for_ever_promotes_no_more_than_stated():
    draw, test = random.Random(2), SequentialTest(0.01, 0.007, alpha=0.1)
    promoted = sum(test.judge([draw.gauss(0, 0.007) for _ in range(300)]).verdict == "promote" for _ in range(3000))
    assert promoted / 3000 <= 0.1


@pytest.mark.parametrize("truth", [-0.01, 0.0, 0.004, 0.01, 0.03])
def test_the_interval_holds_the_truth_at_every_look_at_once(truth):
    """Also at the look at which it is farthest off, which is the worst moment to stop at."""
    draw, rounds, held = random.Random(3), 2000, 0
    for _ in range(rounds):
        total, always = 0.0, True
        for n in range(1, 41):
            total += draw.gauss(truth, TEST.sigma_d)
            low, high = TEST.interval(total / n, n)
            always &= low <= truth <= high
        held += always
    assert TEST.confidence == 0.95
    assert held / rounds >= 0.95


@given(tests, st.lists(small, min_size=1, max_size=20), st.sampled_from([1, 3]))
def test_a_promotion_and_its_interval_never_disagree(test, differences, least):
    test = replace(test, least=least)
    judged = test.judge(differences)
    if judged.n >= least and abs(judged.low + test.margin) > 1e-12:
        assert (judged.verdict == "promote") == (judged.low > -test.margin)


@pytest.mark.parametrize("noisier", [1, 2, 3, 5, 10])
def test_a_candidate_that_is_as_good_and_much_noisier_is_promoted_no_more_often_than_stated(noisier):
    """The test is told the noise of the baseline alone."""
    draw, rounds = random.Random(4), 3000
    trusting = SequentialTest(0.01, 0.005 * math.sqrt(2), n_max=16)
    promoted = {1: 0, 3: 0}
    for _ in range(rounds):
        differences = [draw.gauss(0, 0.005) - draw.gauss(0, noisier * 0.005) for _ in range(16)]
        for least in promoted:
            promoted[least] += replace(trusting, least=least).judge(differences).verdict == "promote"
    assert promoted[3] / rounds <= 0.05
    assert noisier == 1 or promoted[1] / rounds > 0.1


@given(tests, st.lists(small, min_size=1, max_size=20))
def test_who_looks_at_the_spread_promotes_nothing_that_would_not_be_promoted_without(test, differences):
    wary, trusting = replace(test, least=3).judge(differences), test.judge(differences)
    assert wary.verdict != "promote" or trusting.verdict == "promote"


@given(tests, st.lists(small, min_size=1, max_size=20), st.lists(small, max_size=5))
def test_a_decision_stands_whatever_comes_after_it(test, differences, more):
    judged = test.judge(differences)
    if judged.verdict is not None:
        assert test.judge([*differences, *more]) == judged
        assert test.judge(differences[: judged.n - 1]).verdict is None


def test_a_test_that_can_decide_nothing_is_refused():
    for sigma in (0.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="noise between seeds"):
            SequentialTest(0.01, sigma)
    with pytest.raises(UsageError, match="delta"):
        SequentialTest(0.0, 0.01)


# ---- Noise


@given(st.lists(st.floats(0, 5), min_size=2, max_size=9), st.floats(-9, 9))
def test_pooled_noise_does_not_see_the_means_of_the_groups(values, shift):
    sigma, df = pooled([values])
    assert sigma == pytest.approx(statistics.stdev(values))
    assert df == len(values) - 1
    twice, freedom = pooled([values, [value + shift for value in values], [1.0]])
    assert twice == pytest.approx(sigma, abs=1e-9)
    assert freedom == 2 * df
    assert pool([(sigma, df), (sigma, df)])[0] == pytest.approx(sigma)


def test_few_runs_and_shared_seeds_in_the_noise_of_a_difference():
    assert sigma_of_difference(0.01, FEW) == pytest.approx(0.01 * math.sqrt(2))
    assert sigma_of_difference(0.01, FEW - 1) == pytest.approx(1.25 * 0.01 * math.sqrt(2))
    assert inflation(7) == 1.25 < inflation(3) < inflation(2) < inflation(1) == 4
    assert sigma_of_difference(0.01, FEW, rho=0.5) == pytest.approx(0.01)
    assert sigma_of_difference(0.01, FEW, rho=-0.3) == pytest.approx(0.01 * math.sqrt(2))
    with pytest.raises(UsageError, match="two seeds"):
        pooled([[1.0], [2.0]])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=9))
def test_correlation_inside_pairs(pairs):
    (xs, ys) = zip(*pairs, strict=True)
    if statistics.pstdev(xs) < 1e-3 or statistics.pstdev(ys) < 1e-3:
        return
    rho, df = correlation([pairs, [(x + 5, y - 2) for x, y in pairs], [(1.0, 1.0)]])
    assert rho == pytest.approx(statistics.correlation(xs, ys), abs=1e-6)
    assert df == 2 * (len(pairs) - 1)


def test_the_noise_that_somebody_would_measure_has_as_many_degrees_of_freedom_as_it_says():
    for df in (1, 3):
        squares = [SimulatedWorld(0.01, {}, number=number).told(df) ** 2 for number in range(1000)]
        assert statistics.fmean(squares) == pytest.approx(0.01**2, rel=0.2)
        assert statistics.stdev(squares) == pytest.approx(math.sqrt(2 / df) * 0.01**2, rel=0.2)
