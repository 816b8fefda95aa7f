"""The long search: what it proposes, how it keeps, audits and rolls back, and what that is worth in simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.project import write_project

from foundry.core.config import Experiment, load_experiment
from foundry.core.config.mutate import FIXED, mutate
from foundry.core.contracts import FoundryError, Space, Stack, Tried, UsageError
from foundry.core.registry import registry
from foundry.lab.ledger import Generation, Ledger
from foundry.lab.search.history import earlier
from foundry.lab.search.policy import PATIENCE, Answer, Audit, Policy, Round, Search, Step
from foundry.lab.search.proposed_arms import Ground
from foundry.lab.search.proposers import BestOfN, BestOfNParams, Evolutionary, EvolutionaryParams
from foundry.lab.search.simulate import Ended, GaussianIdeas, greedy, ours
from foundry.lab.search.space import values_on
from foundry.lab.search.stacks import keep_rates, on_top, settled

BASELINE = """\
model_args: {n_layer: 2, n_head: 4, n_embd: 32, block_size: 32, attention: {type: gqa, n_kv_head: 2}}
training: {max_iters: 100, learning_rate: 1e-3}
"""


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    project = write_project(tmp_path_factory.mktemp("project"), {"experiments/baseline.yaml": BASELINE})
    return load_experiment(project / "experiments" / "baseline.yaml")


# --------------------------------------------------------------------------------------------------------------------
# What can be proposed


def test_the_space_holds_what_a_researcher_would_try_and_nothing_that_comparisons_hold_fixed(
    baseline: Experiment,
) -> None:
    values = values_on(baseline)
    assert {"mha", "mqa"} <= {*values["attention"]}
    assert "relu2" in values["activation"]
    assert {"3", "1", "4"} == {*values["depth"]}
    assert values["lr"] == ("5e-4", "7e-4", "1.4e-3", "2e-3")
    assert {"position.theta=20000", "attention.sinks=true"} <= {*values["param"]}
    assert "qknorm" in values["norm"]  # and `param attention.qk_norm=true` is the same, so not proposed twice
    assert not [value for value in values["param"] if ".eps=" in value]  # nobody would search for it
    assert not {"dataset", "task", "executor", "proposer", "tokenizer", "seed"} & values.keys()
    assert "tokenizer" in values_on(baseline, "val_bpb")  # which compares tokenizers


def test_every_value_of_the_space_makes_another_experiment_that_keeps_seed_data_evaluation_and_tokens(
    baseline: Experiment,
) -> None:
    identities = {baseline.identity}
    tokens = 100 * baseline.training.batch_size * baseline.model_args.block_size
    for type, values in values_on(baseline).items():
        for value in values:
            mutated = mutate(baseline, type, value)
            assert not [change for change in mutated.changes if change.key.split(".")[0] in ("seed", "data", "eval")]
            training = mutated.experiment.training
            assert training.max_iters is not None
            assert training.max_iters * training.batch_size * mutated.experiment.model_args.block_size == tokens
            identities.add(mutated.experiment.identity)
    assert len(identities) == 1 + sum(map(len, values_on(baseline).values()))
    assert {"seed", "eval", "data"} <= {*FIXED}


def test_a_variant_of_the_project_and_its_params_join_the_space_without_further_code(tmp_path: Path) -> None:
    snake = (
        "from pydantic import Field\n"
        "from foundry.core.contracts import ActivationParams, Variant\n"
        "class SnakeParams(ActivationParams):\n"
        "    a: float = Field(1.0, gt=0, lt=1.5)\n"
        'VARIANTS = [Variant("activation", "snake", f"{__name__}:Snake", SnakeParams, "a wave")]\n'
    )
    write_project(tmp_path, {"experiments/baseline.yaml": BASELINE, "variants/snake.py": snake})
    there = load_experiment(tmp_path / "experiments" / "baseline.yaml")
    assert "snake" in values_on(there)["activation"]
    mutated = mutate(there, "activation", "snake").experiment
    assert [value for value in values_on(mutated)["param"] if "activation" in value] == ["activation.a=0.5"]


# --------------------------------------------------------------------------------------------------------------------
# Proposers

VALUES = {"activation": ("relu2", "gelu"), "depth": ("3", "5"), "lr": ("1e-3", "2e-3", "4e-3"), "norm": ("layernorm",)}
mutations = st.sampled_from([(type, value) for type, values in VALUES.items() for value in values])
stacks = st.lists(mutations, max_size=3).map(lambda each: on_top((), *each))
tries = st.builds(
    Tried,
    origin=st.integers(0, 1),
    parent=stacks,
    stack=stacks,
    fate=st.sampled_from(["kept", "passed_over", "failed", "rejected", "unproven", "verified"]),
    effect=st.none() | st.floats(-0.1, 0.1),
)
NAMES = ("evolutionary", "random", "grid", "best_of_n")


@pytest.mark.parametrize("name", NAMES)
@given(current=stacks, history=st.lists(tries, max_size=20), n=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_proposer_repeats_itself_with_the_seed_and_never_what_was_settled_on_this_baseline(
    name: str, current: Stack, history: list[Tried], n: int, seed: int
) -> None:
    variant = registry().variant("proposer", name)
    proposer = variant.load()(variant.params())
    space = Space(1, current, VALUES, VALUES)
    proposals = proposer.propose(space, history, n, Random(seed))
    assert proposals == proposer.propose(space, [*history], n, Random(seed))
    assert len(proposals) == len({*proposals}) <= n
    assert not {*proposals} & (settled(history, 1) | {current, ()})
    assert {mutation for stack in proposals for mutation in stack} <= {
        *current,
        *((type, value) for type, values in VALUES.items() for value in values),
        *(mutation for each in history for mutation in each.stack),
    }


def test_grid_tries_everything_once_and_then_has_no_further_idea() -> None:
    variant = registry().variant("proposer", "grid")
    grid, history, found = variant.load()(variant.params()), [], []
    while proposals := grid.propose(Space(0, (), VALUES, VALUES), history, 3, Random(0)):
        found += proposals
        history += [Tried(0, (), stack, "passed_over", -0.1) for stack in proposals]
    assert found == [((type, value),) for type, values in VALUES.items() for value in values]


def test_evolutionary_goes_where_keeps_come_from_and_joins_what_did_well() -> None:
    evolutionary = Evolutionary(EvolutionaryParams())
    history = [Tried(0, (), (("lr", value),), "kept", 0.02) for value in VALUES["lr"]] * 5
    history += [Tried(0, (), (("norm", "layernorm"),), "passed_over", -0.1)] * 30
    current = (("activation", "relu2"),)
    space = Space(0, current, {**VALUES, "depth": ("3",)}, VALUES)
    drawn = [stack for seed in range(200) for stack in evolutionary.propose(space, history, 1, Random(seed))]
    types = [stack[-1][0] for stack in drawn if stack[:1] == current]
    assert types.count("lr") > 10 * types.count("norm")
    joined = [stack for stack in drawn if stack[:1] == current and stack[1:] in [(("lr", v),) for v in VALUES["lr"]]]
    assert len(joined) > 100


def test_best_of_n_never_builds_on_what_was_kept() -> None:
    control = BestOfN(BestOfNParams(largest=1))
    kept = (("activation", "relu2"), ("depth", "5"))
    proposals = control.propose(Space(0, kept, VALUES, VALUES), [], 6, Random(0))
    assert len(proposals) == 6
    assert all(len(stack) == 1 for stack in proposals)


def test_a_project_s_own_file_can_add_a_proposer(tmp_path: Path) -> None:
    mine = (
        "from foundry.core.contracts import Params, Variant\n"
        "class Always:\n"
        "    def __init__(self, params): ...\n"
        "    def propose(self, space, history, n, random):\n"
        "        return [(*space.current, ('depth', '3'))]\n"
        'VARIANTS = [Variant("proposer", "always", f"{__name__}:Always", Params, "always the same")]\n'
    )
    variant = registry(write_project(tmp_path, {"variants/mine.py": mine})).variant("proposer", "always")
    proposer = variant.load()(variant.params())
    assert proposer.propose(Space(0, (), VALUES, VALUES), [], 8, Random(0)) == [(("depth", "3"),)]


def test_a_search_learns_from_what_was_tried_before_without_reading_an_experiment(made_up_project: Path) -> None:
    with Ledger.open(made_up_project) as ledger:
        rows = [replace(row, spec={}) for row in ledger.sweeps()]
    of_others, all_of_them = earlier(rows, "search"), earlier(rows, "another")
    assert {each.parent for each in of_others} == {()}
    rounds = [each for each in all_of_them if each not in of_others]
    assert {each.fate for each in rounds} >= {"kept", "unproven"}
    assert all(each.stack[: len(each.parent)] == each.parent != each.stack for each in rounds)
    assert len(all_of_them) == sum(
        len(row.arms) - 1 for row in rows if row.status == "finished" and row.kind in ("sweep", "round")
    )


def test_a_later_mutation_of_the_same_setting_replaces_the_earlier_one() -> None:
    stack = on_top((), ("depth", "5"), ("param", "position.theta=5e4"), ("param", "optimizer.beta2=0.9"))
    assert on_top(stack, ("depth", "6"), ("param", "position.theta=1e5")) == (
        ("param", "optimizer.beta2=0.9"),
        ("depth", "6"),
        ("param", "position.theta=1e5"),
    )


def test_keep_rates_count_each_type_that_a_proposal_added() -> None:
    base = (("depth", "5"),)
    history = [
        Tried(0, (), base, "kept", 0.01),
        Tried(0, base, (*base, ("lr", "1e-3")), "passed_over", 0.0),
        Tried(0, base, (*base, ("lr", "2e-3"), ("norm", "layernorm")), "failed"),
        Tried(0, (), base, "rejected", -0.01),
    ]
    assert keep_rates(history) == {"depth": (1, 2), "lr": (0, 2), "norm": (0, 1)}


# --------------------------------------------------------------------------------------------------------------------
# The search


def endless(search: Search) -> list[Stack]:
    """One new idea per round."""
    return [(*search.current, ("idea", str(search.rounds)))]


def play(search: Search, answers: Mapping[int, Answer], steps: int) -> list[Step]:
    """The first steps of a search whose answer to step k (from 0) is `answers[k]`: by default every idea is good and
    every audit passes."""
    asked: list[Step] = []
    way = search.steps()
    step = next(way)
    while len(asked) < steps:
        asked.append(step)
        good = (
            Answer({stack: 1.0 for stack in step.proposals}) if isinstance(step, Round) else Answer(verdict="promote")
        )
        try:
            step = way.send(answers.get(len(asked) - 1, good))
        except StopIteration:
            break
    return asked


def kinds(steps: Sequence[Step]) -> str:
    return "".join("r" if isinstance(step, Round) else "A" for step in steps)


def test_stacks_grow_while_audits_pass_and_shrink_with_rollback_when_one_fails() -> None:
    search = Search(0, Policy(), 0.005, endless)
    assert kinds(play(search, {}, 25)) == "rrrrA" + "rrrrrrrrA" + "rrrrrrrrA" + "rr"

    search = Search(0, Policy(), 0.005, endless)
    failed = Answer(verdict="reject", effect=-0.01)
    asked = play(search, {4: failed, 7: Answer(verdict="inconclusive"), 9: failed}, 12)
    assert kinds(asked) == "rrrrA" + "rrA" + "rA" + "rA"
    assert asked[4] == Audit(0, (), tuple(("idea", str(k)) for k in range(4)))
    assert asked[5].current == ()  # rolled back
    assert asked[11] == Audit(0, (), (("idea", "7"),))
    assert [each.fate for each in search.history if each.fate in ("rejected", "unproven", "verified")] == [
        "rejected", "unproven", "rejected", "verified",
    ]  # fmt: skip


def test_the_next_stack_is_audited_against_the_last_verified_one() -> None:
    asked = play(Search(0, Policy(first_stack=1, largest_stack=1), 0.005, endless), {}, 4)
    assert kinds(asked) == "rArA"
    assert asked[3] == Audit(0, (("idea", "0"),), (("idea", "0"), ("idea", "1")))


@pytest.mark.parametrize(("effect", "kept"), [(0.0024, False), (0.0026, True), (-0.1, False), (None, False)])
def test_only_what_beats_a_fresh_control_by_the_margin_is_kept(effect: float | None, kept: bool) -> None:
    search = Search(0, Policy(margin=0.5), 0.005, endless)
    play(search, {0: Answer({(("idea", "0"),): effect})}, 1)
    assert search.current == ((("idea", "0"),) if kept else ())
    assert search.history[-1].fate == ("kept" if kept else "failed" if effect is None else "passed_over")


def test_what_is_kept_when_the_budget_ends_is_audited_last() -> None:
    good, last = {(("idea", "0"),): 1.0}, True
    assert kinds(play(Search(0, Policy(), 0.005, endless), {0: Answer(good, last=last)}, 9)) == "rA" + "rrrrrrr"
    passed = Answer(verdict="promote", last=True)
    assert kinds(play(Search(0, Policy(), 0.005, endless), {0: Answer(good, last=last), 1: passed}, 9)) == "rA"
    nothing = {0: Answer({(("idea", "0"),): -1.0}, last=True)}
    assert kinds(play(Search(0, Policy(), 0.005, endless), nothing, 9)) == "r"


def test_a_search_without_further_ideas_audits_what_it_has_and_ends() -> None:
    ideas = iter([[(("idea", "0"),)], [], []])
    assert kinds(play(Search(0, Policy(), 0.005, lambda search: next(ideas)), {}, 9)) == "rA"


def test_proposals_that_are_settled_double_or_too_many_are_no_round() -> None:
    known = Tried(3, (), (("idea", "old"),), "rejected", -0.1)
    news = [(("idea", str(k)),) for k in (1, 1, 2, 3)]
    search = Search(3, Policy(proposals=2), 0.005, lambda search: [(), known.stack, *news], [known])
    (step,) = play(search, {}, 1)
    assert step == Round(3, (), ((("idea", "1"),), (("idea", "2"),)))


def test_when_somebody_else_promotes_what_was_not_verified_is_judged_again_on_the_new_baseline() -> None:
    search = Search(0, Policy(first_stack=2, largest_stack=2), 0.005, endless)
    asked = play(search, {2: Answer(verdict="promote", moved=5)}, 5)
    assert kinds(asked) == "rrAA" + "r"
    stack = (("idea", "0"), ("idea", "1"))
    assert asked[3] == Audit(5, (), stack)
    assert asked[4].origin == 5
    assert search.promotions == 1  # of the two audits that passed the first came too late


def test_a_control_that_fails_rolls_back_and_a_baseline_that_keeps_failing_ends_the_search() -> None:
    search = Search(0, Policy(), 0.005, endless)
    broken = Answer(effects=None)
    asked = play(search, {1: broken, 2: broken}, 4)
    assert kinds(asked) == "rrrr"
    assert asked[2].current == ()
    with pytest.raises(FoundryError, match="the baseline itself failed in 3 rounds"):
        play(Search(0, Policy(), 0.005, endless), dict.fromkeys(range(PATIENCE), broken), 9)


def test_a_policy_without_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="largest_stack"):
        Policy(first_stack=9, largest_stack=8)


def test_a_stack_is_built_on_what_is_verified_only_where_it_goes_on_from_there(tmp_path: Path) -> None:
    """What it is built on says how much its training may cost."""
    verified = BASELINE.replace("n_layer: 2", "n_layer: 3").replace("max_iters: 100", "max_iters: 150")
    generations = [Generation(i, "", {}, "manual", "", None, None, "", 0.0, text=text)
                   for i, text in enumerate((BASELINE, verified))]  # fmt: skip
    deeper, relu = ("depth", "3"), ("activation", "relu2")
    ground = Ground(tmp_path, *generations, stack=(deeper,))
    for stack, layers, steps in (((deeper, relu), 3, 150), ((relu,), 2, 100), ((), 2, 100), ((deeper,), 3, 150)):
        experiment, base = ground.build(stack)
        assert (experiment.model_args.n_layer, base.training.max_iters) == (layers, steps)
        assert (experiment.model_args.activation.type == "relu2") == (relu in stack)


# --------------------------------------------------------------------------------------------------------------------
# What it is worth; 1,000 loops: benchmarks/evolve.py


def mean(loops: list[Ended], figure: str) -> float:
    return sum(getattr(each, figure) for each in loops) / len(loops)


def test_a_simulated_loop_counts_what_its_promotions_are_worth() -> None:
    end = Ended()
    end.promote(-0.02, 0.01)
    end.promote(0.03, 0.01)
    assert (end.promotions, end.harmful, end.passengers) == (2, 1, 3)
    assert end.change == pytest.approx(0.03)


def test_simulated_loops_gain_nearly_as_much_as_greedy_ones_and_promote_almost_nothing_harmful() -> None:
    easy, hard = GaussianIdeas(mean=0.01), GaussianIdeas(mean=0.02)
    best = [greedy(easy, Random(seed)) for seed in range(60)]
    easily = [ours(easy, Random(seed)) for seed in range(60)]
    assert mean(easily, "change") <= 0.85 * mean(best, "change") < 0  # 1,000 loops: 0.96
    assert sum(each.harmful for each in easily) <= 3  # 1,000 loops: 0.000 per loop
    hardly = [ours(hard, Random(seed)) for seed in range(60)]
    assert mean(hardly, "change") < -0.01 < 0 < mean([greedy(hard, Random(seed)) for seed in range(60)], "change")
    assert sum(each.harmful for each in hardly) <= 6
    assert all(each.runs <= easy.budget for each in easily + hardly)
