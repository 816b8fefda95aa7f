"""When a search ends, how much fits in, and the bounds on which it keeps, waits and rolls back. Nothing is trained."""

from __future__ import annotations

import time
from fractions import Fraction
from types import SimpleNamespace

import pytest
from pydantic import BaseModel, Field

from foundry.core.contracts import FoundryError, Tried, UsageError
from foundry.lab.decide.request import CONTROL, Failure
from foundry.lab.decide.rule import Rule
from foundry.lab.decide.simulate import play
from foundry.lab.search.policy import PATIENCE, Policy, Search
from foundry.lab.search.rounds import best_of, compare, effects_of
from foundry.lab.search.settings import Evolved, Limits, SearchSettings, Spent, check_room, room_for_a_round, within
from foundry.lab.search.space import near_field
from foundry.lab.search.stacks import keep_rates, on_top

pytestmark = pytest.mark.quick

A, B = (("norm", "layernorm"),), (("depth", "3"),)


def test_what_is_left_is_counted_in_trainings_like_those_so_far():
    half_an_hour = Spent(trials=8, flops=4e9, trials_now=10, began=time.monotonic() - 1800)
    assert Limits().left(half_an_hour) == float("inf")
    assert Limits(trials=20).left(half_an_hour) == 12
    assert Limits(flops=7e9).left(half_an_hour) == pytest.approx(6)
    assert Limits(hours=1).left(half_an_hour) == pytest.approx(10, rel=0.1)
    assert Limits(trials=9, flops=7e9, hours=1).left(half_an_hour) == 1
    nothing = Spent()
    assert (Limits(flops=1.0).left(nothing), Limits(hours=1).left(nothing)) == (float("inf"), float("inf"))
    nothing.add(3, 6.0, now=False)
    nothing.add(2, 4.0, now=True)
    assert (nothing.trials, nothing.flops, nothing.trials_now) == (5, 10.0, 2)


def test_a_round_needs_room_for_itself_and_an_audit():
    """3 proposals and their control, and as many pairs as an audit needs to pass: 5, and 8 of a stricter one."""
    policy, rule, strict = Policy(3), Rule(finalists=1), Rule(finalists=1, alpha=0.01)
    assert [room_for_a_round(policy, rule, left) for left in (13, 14)] == [False, True]
    assert [room_for_a_round(policy, strict, left) for left in (19, 20)] == [False, True]
    check_room(policy, rule, Limits(trials=14), 14)
    with pytest.raises(UsageError, match="--max-trials 13 leaves no room"):
        check_room(policy, rule, Limits(trials=13), 13)
    assert [within(Rule(n_max=16), left).n_max for left in (0, 3, 9, 32, 100)] == [1, 1, 4, 16, 16]


def test_what_a_search_promises_is_what_its_audits_state():
    audits = [SimpleNamespace(generation=n, effect=e, low=e / 2) for n, e in ((1, 0.02), (None, 9.0), (2, 0.04))]
    told = (
        *("id", SearchSettings(Rule(alpha=0.02)), "", 2, 2.0, 3, 9, 3, {"norm": (1, 4)}),
        tuple(audits),
        (),
        Spent(),
    )
    evolved = Evolved(*told)
    assert (evolved.gain, evolved.least_gain) == (pytest.approx(0.06), pytest.approx(0.03))
    assert evolved.expected_false == pytest.approx(0.06)
    assert len(evolved.promotions) == 2


def test_only_what_is_better_than_the_least_is_kept():
    assert best_of({"a": 0.01, "b": 0.02, "c": None}, 0.0) == "b"
    assert best_of({"a": 0.01}, 0.01) is None
    scores = {CONTROL: 3.0, "a": 2.98, "b": 3.5, "c": Failure("diverged")}
    end = play(compare(["a", "b", "c"], 7, 0.01, given_up=0.02), lambda request: scores[request.arm])
    assert effects_of(end) == {"a": pytest.approx(0.02), "b": -0.5, "c": None}
    assert end.arm("a").reason.startswith("kept until the audit: +0.0200")
    assert end.arm("b").reason.startswith("passed over: -0.5000")
    assert (end.winner, end.runs, end.cost, end.given_up) == (None, 4, Fraction(4), 0.02)


def test_keeps_audits_and_stumbles_are_counted_from_the_last_that_ended_them():
    search = Search(0, Policy(2, margin=0.5, first_stack=8, largest_stack=12), 0.02, lambda search: ())
    assert (search.least, search.patience) == (0.01, 8)
    search.keep_best((A, B), {A: 0.01, B: 0.02})
    assert (search.current, search.keeps) == (B, 1)
    search.settle(SimpleNamespace(verdict="promote", effect=0.02))
    assert (search.verified, search.keeps, search.patience, search.promotions) == (B, 0, 12, 1)
    for patience in (6, 3, 1, 1):
        search.keep_best((A,), {A: 1.0})
        search.settle(SimpleNamespace(verdict="reject", effect=0.0))
        assert (search.current, search.keeps, search.patience) == (B, 0, patience)
    for _ in range(PATIENCE - 1):
        search.stumble()
    search.keep_best((A,), {A: None})  # the control had a score
    for _ in range(PATIENCE - 1):
        search.stumble()
    with pytest.raises(FoundryError, match="the baseline itself failed"):
        search.stumble()


def test_what_is_kept_or_verified_is_no_fresh_proposal():
    search = Search(0, Policy(2), 0.02, lambda search: ())
    search.current, search.verified = A, B
    others = [(("depth", n),) for n in "456"]
    assert search.fresh([(), A, B, others[0], others[0], *others[1:]]) == tuple(others[:2])


def test_a_stack_that_is_verified_speaks_for_its_types():
    fates = ("verified", "kept", "rejected", "failed", "passed_over")
    assert keep_rates([Tried(0, (), A, fate, None) for fate in fates]) == {"norm": (2, 5)}


def test_a_mutation_replaces_what_set_the_same_and_nothing_else():
    theta, base = ("param", "position.theta=2e4"), ("param", "position.base=1")
    assert on_top((theta, base), ("param", "position.theta=3e4")) == (base, ("param", "position.theta=3e4"))
    assert on_top((("depth", "6"), theta), ("depth", "5")) == (theta, ("depth", "5"))


class Ranges(BaseModel):
    least: int = Field(1, ge=1)
    above: int = Field(2, gt=1)
    most: int = Field(4, le=4)
    below: int = Field(4, lt=5)
    share: float = Field(0.5, ge=0, le=1)


def test_values_near_a_fields_own_lie_within_its_bounds():
    near = {name: near_field(field.default, field) for name, field in Ranges.model_fields.items()}
    assert (near["least"], near_field(2, Ranges.model_fields["least"])) == (["2"], ["1", "3", "4"])
    assert (near["above"], near["most"], near["below"]) == (["3", "4"], ["3"], ["3"])
    assert near["share"] == ["0", "0.75"]
