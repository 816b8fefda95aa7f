"""foundry noise: how much seeds alone change the metric, and what can be decided with that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foundry.cli import render
from foundry.cli.options import (
    MOST_RUNS,
    BudgetOption,
    Executor,
    Jobs,
    Json,
    Metric,
    Retry,
    SweepSets,
    Tasks,
    TrialSeconds,
    parse_budget,
)


def noise(
    seeds: Annotated[int, typer.Option(min=2, max=MOST_RUNS, metavar="N", help="Runs of the baseline.")] = 8,
    jobs: Jobs = 1,
    budget: BudgetOption = None,
    set: SweepSets = None,
    metric: Metric = None,
    eval_task: Tasks = None,
    executor: Executor = "local",
    trial_seconds: TrialSeconds = None,
    retry: Retry = False,
    json: Json = False,
) -> None:
    """Measure how much seeds alone change the result. It shows which gains over the baseline a sweep can detect.

    Example: foundry noise --seeds 8 --jobs 2
    """
    from foundry.cli import sweeps
    from foundry.core.project import find_project
    from foundry.lab import Question, Rule

    metric = metric or (eval_task[0] if eval_task else "val_loss")
    question = Question((), Rule(metric=metric), parse_budget(budget), (), tuple(eval_task or ()), tuple(set or ()))
    with sweeps.laboratory(find_project(Path.cwd()), executor, jobs, trial_seconds, retry) as lab:
        data = lab.noise(question, seeds).to_json()
    step = "foundry sweep TYPE VARIANT... --promote"
    if render.wants_json():
        render.record({"event": "result", **data, "next": step})
        return
    render.result(data, lambda: _draw(data), step)


def _draw(data: dict[str, Any]) -> None:
    rows = [("mean", f"{data['mean']:.4f}"), ("sigma", f"{data['sigma']:.4f}"), ("degrees of freedom", data["df"])]
    rows += [("gain that is looked for", f"{data['delta']:.4f}")]
    rows += [("smallest gain found in 80 % of sweeps", f"{data['smallest_decidable']:.4f}")]
    for each in data["power"]:
        rows.append((f"a gain of {each['gain']:g} is found", f"{each['power']:.0%}, {each['pairs']:.1f} pairs"))
    render.table((data["metric"], "value"), rows)
    for failure in data["failures"]:
        render.say(f"a run failed: {failure}")
