"""What a rule says becomes what is tested, asked for and told: each value at its place, and each bound on its side."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest

from foundry.core.contracts import UsageError
from foundry.lab.decide.comparison import compare_procedure
from foundry.lab.decide.duel import Duel
from foundry.lab.decide.noise import correlation, noise_procedure
from foundry.lab.decide.power import characteristic, smallest_decidable
from foundry.lab.decide.procedure import sweep_procedure
from foundry.lab.decide.request import CONTROL, Contender, Failure
from foundry.lab.decide.rule import Rule
from foundry.lab.decide.simulate import play
from foundry.lab.ledger import Evidence

pytestmark = pytest.mark.quick

SIGMA, DF = 0.005, 30
BASELINE, FIRST, SECOND = Contender(CONTROL, "0"), Contender("first", "1"), Contender("second", "2")


def test_every_value_of_a_rule_reaches_its_test():
    rule = Rule(alpha=0.04, beta=0.2, delta=0.03, n_max=11, finalists=3)
    test = rule.test(SIGMA, DF, 0.5)
    assert (test.alpha, test.beta, test.delta, test.n_max) == (0.04, 0.2, 0.03, 11)
    assert (test.comparisons, test.margin) == (3, 0.0)
    assert test.sigma_d == pytest.approx(SIGMA)  # sqrt(2 (1 - rho)) of it
    assert rule.test(SIGMA, DF, n_max=5).n_max == 5
    assert characteristic(test, smallest_decidable(test)).promoted == pytest.approx(0.8, abs=0.03)


def test_rungs_and_the_number_that_goes_on_follow_the_number_of_arms():
    half, eighth = Fraction(1, 2), Fraction(1, 8)
    assert [Rule().shares(arms) for arms in (1, 11, 12)] == [(half,), (half,), (eighth, half)]
    assert [Rule().keep(arms) for arms in (1, 6, 7, 9, 10)] == [2, 2, 3, 3, 4]
    assert Rule(finalists=5).keep(9) == 5


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_chance_of_error_lies_below_a_half(name):
    assert getattr(Rule(**{name: 0.499}), name) == 0.499
    for chance in (0.0, 0.5, 1.0):
        with pytest.raises(UsageError, match=name):
            Rule(**{name: chance})


def test_what_is_clearly_worse_in_screening_is_told_by_the_noise_of_both():
    """Two standard errors of the difference: of one run of the arm and two of the control, by the larger noise."""
    arms = [Contender(name, name) for name in "abcdefgh"]
    for spread, sigma in ((0.0, SIGMA), (0.02, 0.02 * math.sqrt(2))):
        scores = iter([3.0 + spread, 3.0 - spread])

        def answer(request, scores=scores):
            return next(scores) if (request.arm, request.role) == (CONTROL, "screen") else 3.0 + (request.arm == "c")

        end = play(sweep_procedure(BASELINE, arms, Rule(), SIGMA, DF), answer)
        assert f"by more than {2 * sigma * math.sqrt(1 + 1 / 2):.4f}" in end.arm("c").reason


def test_a_winner_that_is_only_as_good_at_the_larger_scale_has_not_won():
    rule = Rule(confirm_at="depth=2x")
    for there, winner in ((3.0, None), (2.999, "first")):
        levels = {"guard": there, "confirm": 2.8}
        end = play(
            sweep_procedure(BASELINE, [FIRST], rule, SIGMA, DF),
            lambda request, levels=levels: 3.0 if request.arm == CONTROL else levels[request.role],
        )
        assert end.winner == winner


def test_pairs_are_asked_for_by_the_window_as_long_as_there_is_room():
    test = Rule(n_max=4).test(SIGMA, DF)
    duel = Duel(BASELINE, FIRST, Evidence(0, "0", "1", "val_loss"), test)
    assert len(duel.ahead(3)) == 3
    duel.pairs += [(3.0, 3.0)] * 3
    assert len(duel.ahead(3)) == 1
    assert len(next(compare_procedure(FIRST, SECOND, Rule(window=3), SIGMA, DF))) == 6


def test_what_two_runs_of_a_pair_share_makes_a_comparison_shorter():
    lengths = []
    for rho in (0.0, 0.75):
        procedure = compare_procedure(FIRST, SECOND, Rule(delta=0.01, n_max=99), 0.02, DF, rho=rho)
        lengths.append(len(play(procedure, lambda request: 3.0).pairs))
    assert lengths[0] / lengths[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize(("fails", "choice"), [("first", "second"), ("second", "first")])
def test_of_two_the_one_that_fails_has_lost(fails, choice):
    end = play(
        compare_procedure(FIRST, SECOND, Rule(), SIGMA, DF),
        lambda request: Failure("diverged") if request.arm == fails else 3.0,
    )
    assert (end.choice, len(end.pairs), end.effect) == (choice, 6, None)
    assert end.reason == f"{choice} is better than {fails}; {fails} failed in 6 of 6 pairs: diverged"


def test_the_mean_of_noisy_runs_is_of_those_that_have_a_score():
    scores = iter([2.0, Failure("diverged"), 2.5])
    spread = play(noise_procedure("0", 3), lambda request: next(scores))
    assert (spread.mean, spread.df, spread.failures) == (2.25, 1, ("diverged",))
    assert spread.sigma == pytest.approx(0.25 * math.sqrt(2))


def test_a_decision_of_an_earlier_rule_is_read_again_as_it_was():
    rule = replace(Rule(), rungs=(Fraction(1, 8), Fraction(1)), alpha=0.01, confirm_at="tokens=4x")
    assert Rule.from_json(rule.to_json()) == rule
    assert rule.scale() == ("tokens", 4)


@pytest.mark.parametrize(("gain", "winner"), [(1.99, None), (2.0, "first")])
def test_an_arm_may_lose_the_margin_from_the_factor_on_that_was_asked_for(gain, winner):
    rule = Rule(cost="kv_bytes_per_token", cost_factor=2.0, margin=0.02)
    arm = replace(FIRST, gain=gain)
    assert play(sweep_procedure(BASELINE, [arm], rule, SIGMA, DF), lambda request: 3.0).winner == winner


def test_the_runs_that_measure_the_noise_are_no_ones_else():
    noise = {request.seed for request in next(noise_procedure("0", 4))}
    arms = [Contender(name, name) for name in "abcdefgh"]
    screened = {request.seed for request in next(sweep_procedure(BASELINE, arms, Rule(), SIGMA, DF))}
    assert len(noise) == 4
    assert not noise & screened


def test_a_comparison_has_the_seeds_on_which_a_sweep_would_confirm_its_second():
    ours = [request.seed for request in next(compare_procedure(FIRST, SECOND, Rule(window=2), SIGMA, DF))]
    pair = Evidence(0, FIRST.identity, SECOND.identity, "val_loss")
    assert ours == [pair.seed(0), pair.seed(0), pair.seed(1), pair.seed(1)]


@pytest.mark.parametrize("finalists", [1, 2, 3])
def test_after_the_last_rung_the_finalists_are_left(finalists):
    asked = set()
    arms = [Contender(name, name) for name in "abcdefgh"]
    procedure = sweep_procedure(BASELINE, arms, Rule(finalists=finalists), SIGMA, DF)
    play(procedure, lambda request: asked.add((request.role, request.arm)) or 3.0)
    assert len({arm for role, arm in asked if role == "confirm" and arm != CONTROL}) == finalists


def test_two_pairs_tell_of_a_correlation_too():
    assert correlation([[(1.0, 2.0), (2.0, 4.0)]]) == (pytest.approx(1.0), 1)
    assert correlation([[(1.0, 2.0)], []]) == (0.0, 0)
