"""Sweeps with nothing to find: every arm is the baseline itself, with seeds of its own. A promotion is a false one, and
their share is what a rule's alpha promises to bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from foundry.lab.decide.conclusion import Conclusion
from foundry.lab.decide.procedure import Procedure, null_procedure
from foundry.lab.promotion import current_baseline
from foundry.lab.sweep.plan import Plan, make_plan
from foundry.lab.sweep.question import Question
from foundry.lab.sweep.session import Lab


def null_sweeps(lab: Lab, question: Question, *, arms: int, rounds: int) -> Iterator[Conclusion]:
    """The conclusion of each round. Rounds that the ledger knows are not trained again, and nothing is promoted.

    Args:
        question: by which rule, for how long.
    """
    generation, baseline = current_baseline(lab.ledger, lab.project)
    plan, _ = make_plan(generation, baseline, replace(question, stacks=(), lr_factors=()), lab.jobs, lab.count)
    plan = lab.with_noise(plan)
    names = [f"null {number}" for number in range(1, arms + 1)]
    entries = (plan.baseline, *(replace(plan.baseline, arm=name, family=name) for name in names))
    for number in range(rounds):
        row = lab.begin(replace(plan, kind="null", entries=entries, round=number))
        yield lab.conclude(row, _procedure, Conclusion.from_json)


def _procedure(plan: Plan) -> Procedure:
    assert plan.sigma is not None
    identity, rule = plan.baseline.identity, plan.question.rule
    return null_procedure(identity, len(plan.arms), rule, plan.sigma, plan.df, round=plan.round)
