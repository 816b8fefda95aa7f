"""What a sweep decides, in worlds whose truth is known: no trial is trained here, every decision is the real one."""

import json
import math
import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doses import SMALL

from foundry.core.contracts import FoundryError, UsageError
from foundry.lab.decide.comparison import Comparison, compare_procedure
from foundry.lab.decide.conclusion import Conclusion
from foundry.lab.decide.noise import noise_procedure
from foundry.lab.decide.procedure import null_procedure, sweep_procedure
from foundry.lab.decide.request import CONTROL, Contender, Failure
from foundry.lab.decide.rule import Rule
from foundry.lab.decide.sequential import BETS
from foundry.lab.decide.simulate import SimulatedWorld, play, simulate, simulate_null
from foundry.lab.ledger import Evidence, Terms

SIGMA, DF = 0.005, 30
BASELINE = Contender(CONTROL, "the baseline")


def contenders(*arms, **options):
    return [Contender(arm, f"identity of {arm}", **options) for arm in arms]


def sweep(arms, answer, rule=None, **options):
    """The conclusion of a sweep of `arms`, and the requests that it made."""
    asked = []

    def answered(request):
        asked.append(request)
        return answer(request)

    arms = contenders(*arms) if isinstance(arms[0], str) else arms
    return play(sweep_procedure(BASELINE, arms, rule or Rule(), SIGMA, DF, **options), answered), asked


def world(number=0, **gains):
    return SimulatedWorld(SIGMA, gains, number=number)


EIGHT = tuple("abcdefgh")


# ---- The rates


def test_a_planted_gain_is_found_and_nothing_is_found_in_null_sweeps():
    worlds = [world(number, **{"arm": 0.02, **dict.fromkeys(EIGHT[:7], 0.0)}) for number in range(200)]
    assert simulate(Rule(), DF, worlds).best >= 0.95
    assert simulate(Rule(), 7, worlds, estimated=True).best >= 0.95
    for df, estimated in ((DF, False), (7, True)):
        assert simulate_null(Rule(), SIGMA, df, arms=8, rounds=200, estimated=estimated).harmful <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("arms", [1, 2, 8, 30])
@pytest.mark.parametrize(("df", "estimated"), [(DF, False), (7, True), (1, True)])
def test_false_promotions_stay_below_the_stated_rate(arms, df, estimated):
    assert (
        simulate_null(Rule(), SIGMA, df, arms=arms, rounds=400 if SMALL else 3000, estimated=estimated).harmful <= 0.05
    )


def test_common_seeds_make_smaller_gains_visible():
    """The more of their noise two runs share, the fewer pairs a gain takes; and the stated rates hold."""
    rule = Rule(delta=0.01)
    alone, paired, nothing = (
        simulate(rule, DF, [SimulatedWorld(0.01, {"arm": gain}, rho=rho, number=n) for n in range(150)])
        for gain, rho in ((0.01, 0.0), (0.01, 0.8), (0.0, 0.8))
    )
    assert paired.best > alone.best + 0.1
    assert paired.runs < 0.7 * alone.runs
    assert nothing.harmful <= 0.05


# ---- What is asked for


def test_screening_shares_its_seeds_and_confirmation_has_fresh_ones():
    end, asked = sweep(EIGHT, world(c=0.02))
    seeds = {role: {request.seed for request in asked if request.role == role} for role in ("screen", "confirm")}
    assert end.winner == "c"
    assert len(seeds["screen"]) == Rule().control_seeds
    assert not seeds["screen"] & seeds["confirm"]
    for seed in seeds["confirm"]:
        arms = [request.arm for request in asked if request.seed == seed]
        assert len(arms) == 2
        assert arms[0] == CONTROL
    assert len(asked) == len(set(asked)) == end.runs
    assert end.cost == sum(request.share for request in asked)


def test_few_arms_need_no_screening_and_many_get_rungs():
    assert {request.role for request in sweep(EIGHT[:2], world())[1]} == {"confirm"}
    shares = Counter(request.share for request in sweep([f"{i}" for i in range(27)], world())[1])
    assert shares[Fraction(1, 8)] == 27 + 2
    assert 9 + 2 <= shares[Fraction(1, 2)] <= 14


def test_copies_of_the_baseline_have_seeds_of_their_own():
    asked = []
    play(null_procedure("id", 4, Rule(), SIGMA, DF), lambda request: asked.append(request) or world()(request))
    control = {request.seed for request in asked if request.arm == CONTROL}
    assert len({request.seed for request in asked}) == len(asked)
    other = null_procedure("id", 4, Rule(), SIGMA, DF, round=1)
    assert control.isdisjoint(request.seed for request in next(other))


# ---- Verdicts and their reasons


def test_of_two_that_qualify_together_the_larger_effect_wins():
    end, _ = sweep(("a", "b", "c"), lambda request: {"a": 2.9, "b": 2.8}.get(request.arm, 3.0))
    assert end.winner == "b"
    assert end.arm("b").verdict == "promote"
    assert end.arm("a").verdict == "inconclusive"
    assert "b gained more" in end.arm("a").reason
    assert end.arm("c").judgement is None
    assert end.arm("b").loss == pytest.approx(2.8)
    assert end.arm("b").control_loss == pytest.approx(3.0)


def test_a_failed_run_is_a_rejection_with_its_reason_and_never_a_score():
    def answer(request):
        if request.arm == "a" or (request.arm == "b" and request.role == "confirm"):
            return Failure("the loss is not finite")
        return 3.0 - 0.05 * (request.arm == "b")

    end, _ = sweep(("a", "b", "c", "d"), answer)
    assert end.winner is None
    assert end.arm("a").reason == "its run failed at 1/2 of the budget: the loss is not finite"
    assert end.arm("b").judgement.failed == end.arm("b").judgement.n == 1
    assert end.arm("b").reason.endswith(
        "after 1 pair, in 1 of which its run failed; its run failed: the loss is not finite"
    )
    assert end.arm("b").loss is None
    assert {end.arm(arm).verdict for arm in "ab"} == {"reject"}
    assert end.arm("a").screening == ()


@pytest.mark.parametrize(("role", "arms"), [("screen", {CONTROL}), ("confirm", {CONTROL, *EIGHT})])
def test_a_baseline_that_always_fails_ends_the_sweep_with_a_clear_error(role, arms):
    with pytest.raises(FoundryError, match=r"baseline itself failed.*out of memory"):
        sweep(EIGHT, lambda each: Failure("out of memory") if each.role == role and each.arm in arms else 3.0)


@pytest.mark.parametrize("diverges", [0.05, 0.4])
def test_a_baseline_that_fails_now_and_then_ends_no_sweep_and_is_no_worse_than_an_arm_that_does_so_too(diverges):
    """Failures are outcomes: the pair is lost to whoever failed, and an arm that fails more often is not promoted."""
    won = {"alike": 0, "stable": 0}
    for number in range(100):
        for name in won:
            draw, nature = random.Random(number), world(number)

            def answer(request, name=name, draw=draw, nature=nature):
                unstable = request.role == "confirm" and (name == "alike" or request.arm == CONTROL)
                return Failure("diverged") if unstable and draw.random() < diverges else nature(request)

            won[name] += sweep(("a",), answer)[0].winner is not None
    assert won["alike"] <= 5
    assert won["stable"] >= (20 if diverges == 0.4 else 0)


def test_arms_that_are_hopeless_are_rejected_without_a_single_full_run():
    end, asked = sweep(EIGHT, lambda request: 3.0 if request.arm == CONTROL else 3.5)
    assert {arm.verdict for arm in end.arms} == {"reject"}
    assert all("clearly worse" in arm.reason for arm in end.arms)
    assert {request.role for request in asked} == {"screen"}


def test_an_arm_clearly_better_than_the_control_is_not_pruned_before_the_last_rung():
    arms = [f"arm {k}" for k in range(27)]
    end, _ = sweep(arms, lambda request: 3.0 if request.arm == CONTROL else 2.9 + int(request.arm[4:]) / 1000)
    assert all(len(arm.screening) == 2 for arm in end.arms)
    assert end.winner in arms[:2]


def test_the_baseline_again_is_not_trained():
    end, asked = sweep([Contender("same", BASELINE.identity), *contenders("a")], world())
    assert end.arm("same").verdict == "reject"
    assert not [request for request in asked if request.arm == "same"]


def test_arms_that_cannot_be_compared():
    for arms in ([], contenders("a", "a"), [replace(BASELINE, identity="x")], [Contender("lr 1", "x", CONTROL)]):
        with pytest.raises(UsageError):
            play(sweep_procedure(BASELINE, arms, Rule(), SIGMA, DF), world())


# ---- Learning rates


def test_every_family_and_the_control_stand_by_their_best_learning_rate():
    arms = [
        Contender("a", "a", "a"), Contender("a + lr 2", "a2", "a"),
        Contender("b", "b", "b"), Contender("b + lr 2", "b2", "b"),
        Contender("lr 2", "baseline2", CONTROL), Contender("lr 4", "baseline4", CONTROL),
    ]  # fmt: skip
    losses = {CONTROL: 3.0, "lr 2": 2.9, "a": 2.95, "a + lr 2": 2.8, "b": 2.89, "b + lr 2": 2.99}
    end, asked = sweep(arms, lambda request: losses.get(request.arm, Failure("diverged")))
    confirmed = {request.arm for request in asked if request.role == "confirm"}
    assert end.control == "lr 2"
    assert confirmed == {"lr 2", "a + lr 2", "b", CONTROL}
    assert end.winner == "a + lr 2"
    assert end.arm("a").reason == "a + lr 2 was better at 1/2 of the budget"
    assert end.arm("lr 4").verdict == "reject"
    assert [seen.n for seen in end.arm("lr 2").screening] == [2]
    assert [duel.control for duel in end.arm("a + lr 2").duels] == ["lr 2", CONTROL]
    assert end.arm("a + lr 2").judgement.effect == pytest.approx(0.1)  # against lr 2, not against the baseline
    near = 2.8 + Rule().gain(SIGMA) / 5
    end, _ = sweep(arms, lambda each: near if each.arm == CONTROL and each.share == 1 else losses.get(each.arm, 3.0))
    assert (end.winner, end.arm("a + lr 2").verdict) == (None, "reject")


def test_a_baseline_that_fails_ends_a_sweep_though_it_runs_at_another_rate():
    arms = [Contender("a", "a", "a"), Contender("b", "b", "b"), Contender("lr 2", "baseline2", CONTROL)]
    with pytest.raises(FoundryError, match=r"the baseline itself failed at 1/2 of the budget, .*: diverged"):
        sweep(arms, lambda request: Failure("diverged") if request.arm == CONTROL else 3.0)


@pytest.mark.parametrize("arms", [1, 3])
def test_a_learning_rate_that_is_worse_with_all_of_the_budget_makes_nobody_better_than_the_baseline(arms):
    """With half of the budget the doubled rate is as good; with all of it everything that has it is worse."""
    names = [f"arm {number}" for number in range(arms)]
    all = [Contender("lr 2", "baseline2", CONTROL)]
    all += [Contender(name + lr, name + lr, name) for name in names for lr in ("", " + lr 2")]
    worse = {each.arm: -0.02 for each in all if each.arm.endswith("lr 2")}
    ends = []
    for number in range(300):
        whole, part = SimulatedWorld(SIGMA, worse, number=number), SimulatedWorld(SIGMA, {}, number=number)
        procedure = sweep_procedure(BASELINE, all, Rule(), SIGMA, DF)
        ends.append(play(procedure, lambda request, worlds=(part, whole): worlds[request.share == 1](request)))
    assert any(end.control == "lr 2" for end in ends)
    assert sum(end.winner is not None for end in ends) <= 0.05 * len(ends)
    said = "not shown to be better than the baseline as it is"
    undone = [arm for end in ends for arm in end.arms if said in arm.reason]
    assert undone
    assert [arm.verdict for arm in undone] == [arm.duels[-1].judgement.verdict for arm in undone]


# ---- What earlier sweeps found


def found(end, control=BASELINE.identity):
    """What a later sweep knows of the arms of an earlier one."""
    known = [
        Evidence(0, duel.control.replace(CONTROL, control), f"identity of {arm.arm}", "val_loss", duel.differences,
                 terms=duel.terms)
        for arm in end.arms for duel in arm.duels
    ]  # fmt: skip
    return {(each.baseline, each.candidate): each for each in known}


def known_of(arm, *differences, sigma=SIGMA, df=DF, delta=0.01):
    pair = (BASELINE.identity, f"identity of {arm}")
    return {pair: Evidence(0, *pair, "val_loss", differences, terms=Terms(sigma, df, delta))}


def test_a_rejected_pair_costs_nothing_and_an_undecided_one_goes_on_at_its_next_seed():
    rule = Rule(n_max=3)
    first, asked = sweep(("a", "b"), lambda request: {"a": 2.995, "b": 3.1}.get(request.arm, 3.0), rule)
    assert (first.arm("a").verdict, first.arm("b").verdict) == ("inconclusive", "reject")
    (before,) = first.arm("a").duels
    assert len(before.differences) == 3
    more = Rule(n_max=6)
    second, later = sweep(("a", "b"), lambda request: 3.0 - 0.02 * (request.arm == "a"), more, evidence=found(first))
    assert {request.arm for request in later} == {CONTROL, "a"}
    assert not {request.seed for request in later} & {request.seed for request in asked}
    assert second.winner == "a"
    assert second.arm("a").duels[0].differences[:3] == before.differences
    assert second.arm("b").reason == first.arm("b").reason


def test_a_pair_with_a_run_that_failed_goes_on_at_its_next_seed():
    """Else it would be undecided for ever."""
    rule = Rule(n_max=4, delta=0.01)
    failed = iter([False, True] + [False] * 99)

    def answer(request):
        if request.arm != "a":
            return 3.0
        return Failure("diverged") if next(failed) else 2.9925

    first, _ = sweep(("a",), answer, rule)
    assert (first.arm("a").verdict, first.arm("a").judgement.n) == ("inconclusive", 4)
    known = {pair: Evidence.from_json(json.loads(json.dumps(each.to_json()))) for pair, each in found(first).items()}
    assert known == found(first)
    second, asked = sweep(("a",), answer, rule, evidence=known)
    assert (second.arm("a").judgement.n, len(asked)) == (8, 8)
    assert second.arm("a").judgement.failed == 1
    (evidence,) = known.values()
    assert evidence.scored.differences == evidence.differences[:1]  # what --retry goes on from
    assert evidence.scored.terms == evidence.terms
    whole = replace(evidence, differences=(0.0, math.nan, math.inf))  # the second: both failed
    assert Evidence.from_json(json.loads(json.dumps(whole.to_json(), allow_nan=False))) == whole
    assert whole.scored.differences == (0.0,)


def test_of_two_the_one_that_failed_once_and_is_far_better_is_not_called_alike():
    first, second = Contender("first", "1"), Contender("second", "2")
    failed = iter([True] + [False] * 99)
    end = play(
        compare_procedure(first, second, Rule(delta=0.01), 0.01, DF),
        lambda request: 3.0 if request.arm == "first" else Failure("diverged") if next(failed) else 2.95,
    )
    assert end.choice == "undecided"
    assert "second failed in 1 of 16 pairs: diverged" in end.reason


def test_a_pair_that_was_won_before_waits_for_the_others():
    known = known_of("a", *[0.03] * 6)
    end, asked = sweep(("a", "b"), lambda request: 3.0 - 0.1 * (request.arm == "b"), evidence=known)
    assert "a" not in {request.arm for request in asked}
    assert end.winner == "b"
    end, asked = sweep(("a",), world(), evidence=known)
    assert (end.winner, asked, end.runs) == ("a", [], 0)


def test_a_pair_is_judged_by_the_terms_of_its_first_difference():
    """However the noise is estimated by now, and whatever gain somebody would rather look for: what was undecided by
    its own terms is not decided by others."""
    undecided = (0.02, 0.01, 0.02, 0.02, 0.01)
    strict = known_of("a", *undecided, sigma=0.02, delta=0.04)
    for rule in (Rule(n_max=1), Rule(n_max=1, delta=0.003)):
        end, _ = sweep(("a",), lambda request: 3.0 - 0.01 * (request.arm == "a"), rule, evidence=strict)
        assert end.arm("a").verdict == "inconclusive"
        assert end.arm("a").duels[0].terms == Terms(0.02, DF, 0.04)
        scores = [difference / 0.04 for difference in (*undecided, 0.01)]
        won = [math.prod(1 + bet * score for score in scores) for bet in BETS]
        assert end.arm("a").judgement.llr == pytest.approx(math.log(sum(won) / len(won)))
    now = {pair: replace(each, terms=None) for pair, each in strict.items()}
    assert sweep(("a",), lambda request: 3.0 - 0.01 * (request.arm == "a"), Rule(n_max=1), evidence=now)[0].winner


def test_sweeps_that_are_repeated_with_a_noise_that_is_estimated_anew_promote_no_more_often():
    """A null pair, asked again and again, each time with another estimate from 8 runs."""
    promoted = 0
    for number in range(400):
        known: dict = {}
        for repeat in range(6):
            told = SimulatedWorld(SIGMA, {}, number=1000 * number + repeat).told(7)
            procedure = sweep_procedure(BASELINE, contenders("a"), Rule(n_max=3), told, 7, evidence=known)
            end = play(procedure, world(number))
            known = found(end)
            if end.winner or not end.is_open:
                break
        promoted += end.winner is not None
    assert promoted <= 0.05 * 400


# ---- Cheaper, and no worse


CHEAPER = Rule(cost="kv_bytes_per_token", cost_factor=1.5, margin=0.01, margin_cap=0.03)


def test_a_cheaper_arm_need_not_be_better():
    share = {True: 0, False: 0}
    for number in range(60):
        for cheap in share:
            arms = [Contender("gqa", "gqa", gain=4.0 if cheap else 1.2)]
            end, _ = sweep(arms, world(number, gqa=0.0), CHEAPER)
            share[cheap] += end.winner == "gqa"
            if end.winner and cheap:
                assert end.given_up == pytest.approx(min(0.01, max(0.0, -end.arm("gqa").judgement.low)))
                assert end.given_up <= 0.01 + 1e-12
                assert "within 0.01 of the baseline, with kv_bytes_per_token 4 times lower" in end.arm("gqa").reason
    assert share[True] / 60 > 0.8
    assert share[False] / 60 < 0.1


@pytest.mark.parametrize(("tuned", "gives_up"), [(2.9, False), (3.0005, True)])
def test_what_is_given_up_counts_from_the_baseline_that_is_replaced(tuned, gives_up):
    """A cheaper arm that is a little worse than the tuned control, and better than the baseline or as good as it."""
    arms = [Contender("lr 2", "baseline2", CONTROL), Contender("gqa", "gqa", gain=4.0)]
    losses = {CONTROL: 3.0, "lr 2": tuned, "gqa": tuned + 0.001}

    def answer(request):
        return losses[request.arm] - 0.004 * (request.arm == "lr 2" and request.share < 1)

    end, _ = sweep(arms, answer, CHEAPER, given_up=0.001)
    replaced = end.arm("gqa").duels[-1]
    assert (end.winner, end.control, replaced.control) == ("gqa", "lr 2", CONTROL)
    assert end.given_up == pytest.approx(max(0.0, 0.001 - replaced.judgement.low))
    assert (end.given_up > 0) == gives_up


def test_a_cheaper_arm_is_screened_by_what_it_may_lose():
    arms = [Contender(name, name, gain=4.0 if name == "gqa" else 1.0) for name in ("a", "b", "gqa", "c")]
    end, _ = sweep(arms, lambda request: {CONTROL: 3.0, "gqa": 3.003}.get(request.arm, 3.001), CHEAPER)
    assert end.winner == "gqa"


def test_the_margin_ends_when_the_lineage_has_nothing_left_to_give_up():
    arms = [Contender("gqa", "gqa", gain=4.0)]
    end, _ = sweep(arms, lambda request: 3.0, CHEAPER, given_up=0.029)
    assert end.arm("gqa").verdict == "reject"
    assert "only 0.001 left that this may lose" in end.arm("gqa").reason
    assert end.given_up == 0.029


@pytest.mark.parametrize("loss", [0.002, 0.004, 0.008])
def test_a_chain_of_cheaper_baselines_does_not_walk_downhill(loss):
    """50 generations, in each a candidate that is cheaper and truly worse: what is lost in all stays within the cap."""
    lost = []
    for chain in range(20):
        given_up = truth = 0.0
        for generation in range(50):
            baseline = Contender(CONTROL, f"generation {generation}")
            nature = world(50 * chain + generation, gqa=-loss)
            arms = [Contender("gqa", "gqa", gain=2.0)]
            end = play(sweep_procedure(baseline, arms, CHEAPER, SIGMA, DF, given_up=given_up), nature)
            given_up = end.given_up
            truth += loss * (end.winner is not None)
        assert given_up <= CHEAPER.margin_cap
        lost.append(truth)
    assert sum(lost) / len(lost) <= CHEAPER.margin_cap
    assert max(lost) <= CHEAPER.margin_cap + 2 * SIGMA


# ---- At a larger scale


def test_the_sign_must_hold_at_the_scale_of_the_guard():
    def answer(request):
        better = {"a": 0.2, "b": 0.1}.get(request.arm, 0.0)
        return 3.0 + better if request.role == "guard" and request.arm == "a" else 3.0 - better

    end, asked = sweep(("a", "b"), answer, Rule(confirm_at="depth=2x"))
    assert end.winner == "b"
    assert end.arm("a").verdict == "reject"
    assert "not at the larger scale: -0.2000 at depth=2x" in end.arm("a").reason
    assert Counter(request.arm for request in asked if request.role == "guard") == {CONTROL: 2, "a": 1, "b": 1}
    assert Rule(confirm_at="depth=2x").scale() == ("depth", 2)


# ---- A pure function of the outcomes


gains = st.fixed_dictionaries({arm: st.sampled_from([-0.02, 0.0, 0.005, 0.01, 0.03]) for arm in "abcd"})
rules = st.builds(Rule, window=st.integers(1, 4), n_max=st.integers(1, 6), finalists=st.integers(1, 3))


@settings(deadline=None, max_examples=60)
@given(gains, rules, st.integers(0, 10**6), st.randoms())
def test_interruptions_and_the_order_of_arrival_change_nothing(gains, rule, number, chance):
    """Every batch is answered in another order, and after each one the driver may be killed and start again with what
    the ledger knows."""
    nature = world(number, **gains)
    expected, asked = sweep(tuple("abcd"), nature, rule)
    ledger = {}
    while True:
        procedure = sweep_procedure(BASELINE, contenders(*"abcd"), rule, SIGMA, DF)
        try:
            requests = next(procedure)
            while True:
                missing = [request for request in requests if request not in ledger]
                chance.shuffle(missing)
                survived = chance.random() < 0.5 or not missing
                done = missing if survived else missing[: chance.randrange(1, len(missing) + 1)]
                ledger |= {request: nature(request) for request in done}
                if not survived:
                    break
                requests = procedure.send({request: ledger[request] for request in reversed(requests)})
        except StopIteration as end:
            conclusion = end.value
            break
    assert conclusion == expected
    assert set(ledger) == set(asked)


@settings(deadline=None, max_examples=60)
@given(gains, rules, st.integers(0, 10**6))
def test_what_ran_after_a_decision_has_no_say_in_it(gains, rule, number):
    nature = world(number, **gains)
    end, asked = sweep(tuple("abcd"), nature, rule)
    counted = {score for arm in end.arms for duel in arm.duels for pair in duel.pairs for score in pair}
    after = {request for request in asked if request.role == "confirm" and nature(request) not in counted}
    again, _ = sweep(tuple("abcd"), lambda request: Failure("whatever") if request in after else nature(request), rule)
    assert again == end


@settings(deadline=None, max_examples=40)
@given(gains, rules, st.integers(0, 10**6))
def test_a_conclusion_survives_the_ledger(gains, rule, number):
    nature, draw = world(number, **gains), random.Random(number)
    fails = set(draw.sample("abcd", draw.randrange(3)))
    end, _ = sweep(
        tuple("abcd"), lambda each: Failure("boom") if each.arm in fails and draw.random() < 0.5 else nature(each), rule
    )
    assert Conclusion.from_json(json.loads(json.dumps(end.to_json(), allow_nan=False))) == end
    assert end.winner is None or [arm.arm for arm in end.arms if arm.verdict == "promote"] == [end.winner]
    for arm in end.arms:
        assert all(len(duel.pairs) <= rule.n_max for duel in arm.duels)
        assert arm.reason


# ---- The rule


def test_a_rule_survives_the_ledger():
    rule = Rule(rungs=(Fraction(1, 9), Fraction(1)), delta=0.02, cost="params", confirm_at="tokens=4x")
    assert Rule.from_json(json.loads(json.dumps(rule.to_json()))) == rule
    assert Rule(rungs=("1/9", "1")).rungs == rule.rungs
    with pytest.raises(UsageError, match="no colour"):
        Rule.from_json({"colour": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"metric": ""}, {"alpha": 0}, {"alpha": 1.5}, {"beta": -1}, {"n_max": 0}, {"finalists": 0}, {"window": 0},
        {"screening_seeds": 0}, {"control_seeds": 1}, {"delta": 0}, {"delta": float("nan")}, {"margin": -1},
        {"margin_cap": -0.1}, {"cost_factor": 1}, {"rungs": ()}, {"rungs": (1, Fraction(1, 3))}, {"rungs": (2,)},
        {"rungs": ("half",)}, {"rungs": ("1/0",)}, {"confirm_at": "width=2x"}, {"confirm_at": "depth=1x"},
    ],
)  # fmt: skip
def test_a_rule_that_makes_no_sense_says_which_part(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Rule(**wrong)


def test_delta_follows_the_noise_unless_it_is_said():
    assert Rule().gain(0.002) == 0.01
    assert Rule().gain(0.02) == 0.04
    assert Rule(delta=0.003).gain(0.02) == 0.003


# ---- Without promotion


def test_noise_is_measured_on_seeds_of_its_own_and_failures_do_not_count():
    nature = world()
    spread = play(noise_procedure("id", 200), nature)
    assert spread.sigma == pytest.approx(SIGMA, rel=0.15)
    assert spread.df == 199
    requests = next(noise_procedure("id", 3))
    one = play(noise_procedure("id", 3), lambda request: Failure("boom") if request == requests[0] else nature(request))
    assert (one.df, one.failures) == (1, ("boom",))
    for scored in (0, 1):  # from one score there is no spread
        answers = dict.fromkeys(requests, Failure("boom")) | {each: nature(each) for each in requests[:scored]}
        with pytest.raises(FoundryError, match=f"{3 - scored} of 3 runs of baseline failed: boom"):
            play(noise_procedure("id", 3), answers.__getitem__)
    with pytest.raises(UsageError, match="--seeds 8"):
        next(noise_procedure("id", 1))


def test_a_comparison_has_no_favourite():
    first, second = Contender("first", "1"), Contender("second", "2")
    choices = Counter()
    for number in range(100):
        nature = SimulatedWorld(SIGMA, {"second": (0.03, -0.03, 0.0, 0.0)[number % 4]}, number=number)
        end = play(compare_procedure(first, second, Rule(), SIGMA, DF), nature)
        choices[number % 4, end.choice] += 1
        assert end.low is None or end.low <= end.effect <= end.high
    assert choices[0, "second"] >= 24
    assert choices[1, "first"] >= 24
    assert choices[2, "alike"] + choices[3, "alike"] >= 40
    assert choices[2, "first"] + choices[2, "second"] + choices[3, "first"] + choices[3, "second"] <= 4


@pytest.mark.parametrize(("arm", "sign"), [("second", 1), ("first", -1)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_a_comparison_spends_half_its_alpha_on_each_direction(arm, sign, alpha):
    """Of a steady difference the number of pairs is known: as soon as 2 / alpha is won."""
    gain, delta = 0.0125, 0.01
    rule = Rule(alpha=alpha, delta=delta, n_max=100)
    first, second = Contender("first", "1"), Contender("second", "2")
    procedure = compare_procedure(first, second, rule, 0.01, DF)
    end = play(procedure, lambda request: 3.0 - gain * (request.arm == arm))
    assert end.choice == arm
    won = [sum((1 + bet) ** n for bet in BETS) / len(BETS) for n in (len(end.pairs) - 1, len(end.pairs))]
    assert won[0] < 2 / alpha <= won[1]
    assert end.effect == pytest.approx(sign * gain)
    assert end.confidence == pytest.approx(1 - alpha)
    assert sign * (end.low if sign > 0 else end.high) >= 0


def test_a_comparison_with_itself_or_with_runs_that_fail():
    first, second = Contender("first", "1"), Contender("second", "2")
    with pytest.raises(UsageError, match="same experiment"):
        next(compare_procedure(first, replace(second, identity="1"), Rule(), SIGMA, DF))
    failing = play(
        compare_procedure(first, second, Rule(), SIGMA, DF),
        lambda request: Failure("diverged") if request.arm == "second" else 3.0,
    )
    assert (failing.choice, failing.effect) == ("first", None)
    assert "second failed" in failing.reason
    assert json.loads(json.dumps(failing.to_json(), allow_nan=False))["pairs"] == [[3.0, "inf"]] * 6
    assert Comparison.from_json(json.loads(json.dumps(failing.to_json()))) == failing
    with pytest.raises(FoundryError, match="both failed"):
        play(compare_procedure(first, second, Rule(), SIGMA, DF), lambda request: Failure("diverged"))


def test_the_same_request_has_the_same_outcome_in_a_simulated_world():
    nature, draw = SimulatedWorld(SIGMA, {"a": 0.02}, fidelity=0.9), random.Random(0)
    _, asked = sweep(("a", "b", "c"), nature)
    shuffled = draw.sample(asked, len(asked))
    assert {request: nature(request) for request in shuffled} == {request: nature(request) for request in asked}
    assert nature.gain("a", Fraction(1)) == 0.02
    assert nature.gain("a", Fraction(1, 2)) != 0.02
