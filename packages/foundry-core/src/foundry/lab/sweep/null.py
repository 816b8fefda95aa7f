"""Sweeps with nothing to find: every arm is the baseline itself, with seeds of its own. A promotion is a false one, and
their share is what a rule's alpha promises to bound."""

from __future__ import annotations

from dataclasses import replace

from foundry.lab.decide.procedure import Procedure, null_procedure
from foundry.lab.sweep.plan import Plan


def null_plan(plan: Plan, arms: int) -> Plan:
    """A plan of so many copies of its baseline."""
    names = [f"null {number}" for number in range(1, arms + 1)]
    copies = (replace(plan.baseline, arm=name, family=name) for name in names)
    return replace(plan, kind="null", entries=(plan.baseline, *copies))


def procedure_of(plan: Plan) -> Procedure:
    """What decides a null plan whose noise is known."""
    assert plan.sigma is not None
    identity, rule = plan.baseline.identity, plan.question.rule
    return null_procedure(identity, len(plan.arms), rule, plan.sigma, plan.df, round=plan.round)
