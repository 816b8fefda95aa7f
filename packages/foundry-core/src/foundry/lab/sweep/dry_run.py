"""What a sweep would train, before it does: `foundry sweep --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from foundry.core.config import from_plain
from foundry.core.config.assemble import edit
from foundry.lab.decide.request import Outcome, Request
from foundry.lab.decide.rule import LEAST_GAIN
from foundry.lab.decide.simulate import SimulatedWorld, play
from foundry.lab.sweep.arms import Refused
from foundry.lab.sweep.plan import NOISE_SEEDS, Plan
from foundry.lab.trials.fingerprint import training_rows, vocab_size

WORLDS = 30
"""Simulated sweeps of which the trainings are counted: their mean is within 5 % where nothing is better."""
ENOUGH = 20_000
"""Simulated trainings, a second's worth, after which no further sweep is begun: one with so many is nearly all
screening, which is the same in each."""


def foreseen(
    plan: Plan, refused: Sequence[Refused], remarks: Sequence[str], *, project: Path, jobs: int
) -> dict[str, Any]:
    """The arms of a plan that is informed, and how many trainings, FLOPs and seconds to expect if none of them is
    better: what is better ends a sweep sooner. Trains nothing; the seconds are an estimate from a few steps on random
    tokens."""
    noise = NOISE_SEEDS if plan.sigma is None and plan.arms else 0
    if plan.sigma is None:
        plan = replace(plan, sigma=LEAST_GAIN / 2, df=NOISE_SEEDS - 1)
    runs, budgets, flops = _expected(plan) if plan.arms else (0.0, 0.0, 0.0)
    control = plan.baseline.flops
    seconds = training_seconds(plan, project) * (budgets + noise) / jobs
    total = flops + noise * (control or 0.0)
    measured = f" ({noise} of them for the noise)" if noise else ""
    summary = (
        f"about {runs + noise:.0f} trainings if no arm is better{measured}, worth "
        f"{budgets + noise:.3g} full budgets{f', {total:.3g} FLOPs' if control else ''}; "
        f"about {seconds:,.0f} s with {jobs} at a time"
    )
    return {
        "generation": plan.generation,
        "metric": plan.question.rule.metric,
        "arms": [
            {"arm": entry.arm, "changes": list(entry.changes), "flops": entry.flops, "budget": entry.budget,
             "costs": dict(entry.costs)}
            for entry in plan.entries
        ],
        "refused": [{"arm": each.name, "reason": each.reason} for each in refused],
        "remarks": list(remarks),
        "noise_trials": noise,
        "trials": runs,
        "budgets": budgets,
        "flops": total if control else None,
        "seconds": seconds,
        "summary": summary,
    }  # fmt: skip


def _expected(plan: Plan) -> tuple[float, float, float]:
    """Mean trainings, full budgets and FLOPs over simulated sweeps in which every arm is as good as the baseline."""
    assert plan.sigma is not None
    flops = {entry.arm: entry.flops or 0.0 for entry in plan.entries}
    runs, budgets, total, worlds = 0, Fraction(0), 0.0, 0

    while worlds < WORLDS and runs < ENOUGH:
        world = SimulatedWorld(plan.sigma, {}, number=worlds)

        def answer(request: Request, world: SimulatedWorld = world) -> Outcome:
            nonlocal runs, budgets, total
            runs += 1
            budgets += request.share
            total += float(request.share) * flops[request.arm]
            return world(request)

        play(plan.procedure(), answer)
        worlds += 1
    return runs / worlds, float(budgets / worlds), total / worlds


def training_seconds(plan: Plan, project: Path) -> float:
    """Of one training of the baseline, at the pace of a few steps now."""
    from foundry.core.training.bench import step_seconds
    from foundry.core.training.budget import TrainingBudget
    from foundry.core.training.device import resolve

    experiment = from_plain(plan.baseline.experiment, project=project)
    experiment = edit(experiment, {**plan.setting.edits_of(experiment)}, "the sweep")
    budget = TrainingBudget.of(experiment, training_rows(experiment), 3 * plan.baseline.costs["flops_per_token"])
    if budget.steps is None:
        return budget.seconds or 0.0
    device = resolve(experiment.training)
    return budget.steps * step_seconds(experiment, vocab_size(experiment), device, seconds=0.5)
