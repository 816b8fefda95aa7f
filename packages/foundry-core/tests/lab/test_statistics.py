"""The arithmetic of a decision, against closed forms, other ways to compute it, and the truth of simulated worlds."""

import math
import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry.core.contracts import UsageError
from foundry.lab.decide.noise import FEW, correlation, inflation, pool, pooled, sigma_of_difference
from foundry.lab.decide.power import characteristic, smallest_decidable
from foundry.lab.decide.sequential import BETS, SequentialTest
from foundry.lab.decide.simulate import SimulatedWorld

TEST = SequentialTest(delta=0.01, sigma_d=0.007, alpha=0.05, beta=0.1, comparisons=2)
small = st.one_of(st.floats(-0.05, 0.05), st.sampled_from([-math.inf, math.inf, math.nan]))
tests = st.builds(
    SequentialTest,
    delta=st.floats(0.002, 0.05),
    sigma_d=st.floats(0.002, 0.05),
    alpha=st.floats(0.001, 0.2),
    beta=st.floats(0.01, 0.3),
    comparisons=st.integers(1, 5),
    margin=st.sampled_from([0.0, 0.01]),
)


def bets(differences, test=TEST):
    """What betting on them has made of 1."""
    scores = [
        0.0 if math.isnan(each) else max(-1.0, min(1.0, (each + test.margin) / test.delta)) for each in differences
    ]
    return sum(math.prod(1 + bet * score for score in scores) for bet in BETS) / len(BETS)


@given(tests, st.lists(small, min_size=1, max_size=12))
def test_a_promotion_is_that_much_was_won_by_betting_on_it(test, differences):
    judged = test.judge(differences)
    seen = differences[: judged.n]
    assert judged.llr == pytest.approx(math.log(bets(seen, test)), abs=1e-9)
    has_won = bets(seen, test) >= test.comparisons / test.alpha
    assert not has_won or judged.verdict in ("promote", "reject")
    if judged.verdict == "promote":
        assert has_won
        assert seen.count(-math.inf) <= seen.count(math.inf)


def test_what_is_clearly_better_takes_six_pairs_and_what_is_no_better_few():
    steady = TEST.judge([0.01] * 16)
    assert (steady.verdict, steady.n) == ("promote", 6)
    assert TEST.judge([1000.0] * 16) == replace(steady, effect=1000.0, low=1000.0, high=1000.0)
    assert (TEST.judge([0.0] * 16).verdict, TEST.judge([0.0] * 16).n) == ("reject", 3)
    assert TEST.judge([0.005] * 400).verdict == "promote"  # half of what is looked for
    one = replace(TEST, comparisons=1).judge([0.01] * 16)
    assert (one.verdict, one.n) == ("promote", 5)


def test_a_gain_is_given_up_when_it_is_ten_times_less_likely_than_none():
    """For normal differences of known spread: Wald's boundary."""
    at = TEST.delta / 2 + TEST.sigma_d**2 / TEST.delta * math.log(TEST.beta)
    assert TEST.judge([at - 1e-9]).verdict == "reject"
    assert TEST.judge([at + 1e-9]).verdict is None
    wide = [0.01, -0.01] * 8  # they spread more than sigma_d says: less is known of their mean
    assert TEST.judge(wide).n > replace(TEST, sigma_d=0.003).judge([0.0] * 16).n


def test_a_candidate_that_failed_more_often_than_its_controls_is_not_promoted():
    won = [0.02] * 12
    assert TEST.judge([*won[:3], -math.inf, *won]).verdict == "reject"
    equal = TEST.judge([*won[:3], -math.inf, math.inf, *won])
    assert (equal.verdict, equal.failed) == ("promote", 1)
    assert TEST.judge([*won[:3], math.nan, *won]).verdict == "promote"  # both failed
    no_worse = replace(TEST, margin=0.01)
    assert no_worse.judge([0.0] * 16).verdict == "promote"
    both = no_worse.judge([math.nan] * 16)  # which says of neither that it is as good as the other
    assert (both.verdict, both.effect, both.low) == ("reject", None, None)
    assert TEST.judge([-math.inf] * 4).verdict == "reject"
    assert TEST.judge([-math.inf] * 2).effect is None


def world(name, draw):
    """A difference of a candidate that gains nothing, pair by pair."""
    match name:
        case "normal":
            return draw.gauss(0, 0.007)
        case "ten times as noisy":
            return draw.gauss(0, 0.07)
        case "heavy tails":
            return 0.003 * math.tan(math.pi * (draw.random() - 0.5))
        case "rarely much worse":  # clipped at 0.01: 0.0625 x -1 + 0.9375 x 0.0667
            return -0.5 if draw.random() < 0.0625 else 0.000667
        case "half of the runs fail, on both sides":
            return draw.choice([-math.inf, math.inf, math.nan, draw.gauss(0, 0.007)])
        case "a coin":
            return draw.choice([-0.02, 0.02])


@pytest.mark.parametrize(
    "name",
    [
        "normal", "ten times as noisy", "heavy tails", "rarely much worse", "half of the runs fail, on both sides",
        "a coin",
    ],
)  # fmt: skip
@pytest.mark.parametrize("alpha", [0.05, pytest.param(0.01, marks=pytest.mark.slow)])
def test_looking_after_every_pair_promotes_no_more_than_stated_whatever_the_noise(name, alpha):
    draw, test, rounds = random.Random(2), replace(TEST, alpha=alpha, comparisons=1, beta=1e-9), 1000
    promoted = sum(test.judge([world(name, draw) for _ in range(40)]).verdict == "promote" for _ in range(rounds))
    assert promoted / rounds <= alpha + 2 * math.sqrt(alpha / rounds)  # of a coin it is nearly alpha


@pytest.mark.parametrize("noise", [1, 3, 10])
@pytest.mark.parametrize("truth", [-0.01, 0.0, 0.02])
def test_the_interval_holds_the_median_at_every_look_at_once(truth, noise):
    """Also at the look at which it is farthest off, which is the worst moment to stop at."""
    draw, rounds, held, narrow = random.Random(3), 300, 0, 0
    for _ in range(rounds):
        differences, always = [], True
        for _ in range(16):
            differences.append(draw.gauss(truth, noise * 0.007))
            low, high = TEST.interval(differences)
            always &= low is None or low <= truth <= high
        held += always
        narrow += high - low < 4 * noise * 0.007
    assert TEST.confidence == 0.95
    assert held / rounds >= 0.95
    assert narrow / rounds > 0.9
    assert TEST.interval([0.01] * 5) == (None, None)
    assert TEST.interval([0.03, 0.01, 0.02, 0.05, 0.04, 0.06]) == (0.01, 0.06)


@given(tests, st.lists(small, min_size=1, max_size=20), st.lists(small, max_size=5))
def test_a_decision_stands_whatever_comes_after_it(test, differences, more):
    judged = test.judge(differences)
    if judged.verdict is not None:
        assert test.judge([*differences, *more]) == judged
        assert test.judge(differences[: judged.n - 1]).verdict is None


def test_the_characteristic_counts_what_simulated_tests_do():
    test, draw, rounds = SequentialTest(0.01, 0.007, comparisons=2, n_max=16), random.Random(1), 4000
    ends = [test.judge([draw.gauss(0.008, 0.007) for _ in range(16)]) for _ in range(rounds)]
    told = characteristic(test, 0.008)
    for verdict, share in (("promote", told.promoted), ("reject", told.rejected)):
        assert sum(end.verdict == verdict for end in ends) / rounds == pytest.approx(share, abs=0.06)
    assert sum(end.n for end in ends) / rounds == pytest.approx(told.pairs, rel=0.06)
    assert told.promoted + told.rejected + told.inconclusive == pytest.approx(1)
    unsure = characteristic(test, 0.02, 0.02, 2)  # a candidate as noisy as that may be
    assert 0.2 < unsure.promoted < characteristic(test, 0.02).promoted == 1.0


def test_the_smallest_decidable_gain_is_decided():
    test = SequentialTest(0.01, 0.007, comparisons=2, n_max=16)
    gain = smallest_decidable(test, power=0.8)
    assert characteristic(test, gain).promoted >= 0.8 > characteristic(test, 0.96 * gain).promoted
    assert smallest_decidable(replace(test, n_max=5)) is None  # six pairs are the fewest


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
