"""foundry sweep: mutations of the baseline, trained, compared, decided."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry.cli import render
from foundry.cli.options import (
    MOST_RUNS,
    BudgetOption,
    Executor,
    Jobs,
    Json,
    Metric,
    MoreAxes,
    Retry,
    SweepSets,
    Tasks,
    TrialSeconds,
    Words,
    given,
    parse_budget,
    stacks,
    typed,
)
from foundry.core.contracts import ExitCode, UsageError

if TYPE_CHECKING:
    from foundry.lab import Lab, Question, Rule, SweepResult


def sweep(
    context: typer.Context,
    words: Words = None,
    axis: MoreAxes = None,
    jobs: Jobs = 1,
    seeds: Annotated[int, typer.Option(min=1, max=MOST_RUNS, metavar="N", help="Runs of each arm in screening.")] = 1,
    budget: BudgetOption = None,
    set: SweepSets = None,
    lr_grid: Annotated[
        str | None,
        typer.Option(metavar="F,F", help="Factors on the learning rate that every arm and the baseline try."),
    ] = None,
    metric: Metric = None,
    eval_task: Tasks = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make the winner the baseline; exit 5 if there is none.")
    ] = False,
    accept_cost: Annotated[
        str | None,
        typer.Option(
            metavar="COST=FACTOR",
            help="Accept an arm that is no worse if its cost falls to this share: kv_bytes_per_token=0.5.",
        ),
    ] = None,
    confirm_at: Annotated[
        str | None,
        typer.Option(metavar="SCALE", help="The winner must also be better at this scale: depth=2x or tokens=4x."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(metavar="GAIN", help="The gain to look for.", show_default="max(0.01, 2 sigma)")
    ] = None,
    alpha: Annotated[float, typer.Option(metavar="P", help="Probability of a promotion if no arm is better.")] = 0.05,
    max_pairs: Annotated[
        int, typer.Option(min=1, max=MOST_RUNS, metavar="N", help="Most pairs of runs for a finalist.")
    ] = 16,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained, and for how long.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the sweep that was interrupted last.")] = False,
    null: Annotated[
        bool, typer.Option("--null", help="Sweep copies of the baseline: every promotion is a false one.")
    ] = False,
    rounds: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of --null.", show_default="1")] = None,
    arms: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of --null.", show_default="8")] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="With --null: random numbers instead of trainings.")
    ] = False,
    sigma: Annotated[
        float | None,
        typer.Option(min=0, metavar="S", help="Of --simulate: the noise between seeds.", show_default="0.005"),
    ] = None,
    executor: Executor = "local",
    trial_seconds: TrialSeconds = None,
    retry: Retry = False,
    json: Json = False,
) -> None:
    """Train mutations of the baseline, and decide which is better.

    A few runs choose the finalists; pairs of runs on fresh seeds decide. A trial that was trained before is looked up.
    Ctrl-C stops the sweep; the same command resumes it.

    Example: foundry sweep attention mha gqa_2kv --promote --jobs 2
    """
    from foundry.lab import Question, Rule

    _check_together(given(context))
    question = Question(
        stacks=stacks(words or (), axis or ()),
        rule=Rule(
            metric=metric or (eval_task[0] if eval_task else "val_loss"),
            alpha=alpha,
            delta=delta,
            n_max=max_pairs,
            screening_seeds=seeds,
            confirm_at=confirm_at or "",
            **_cost(accept_cost),
        ),
        budget=parse_budget(budget),
        lr_factors=tuple(_factors(lr_grid)),
        tasks=tuple(eval_task or ()),
        sets=tuple(set or ()),
    )
    arms, rounds = arms or 8, rounds or 1
    if null and simulate:
        return _simulated(question.rule, 0.005 if sigma is None else sigma, arms, rounds)
    from foundry.cli import sweeps
    from foundry.core.project import find_project

    with sweeps.laboratory(find_project(Path.cwd()), executor, jobs, trial_seconds, retry) as lab:
        if null:
            return _null(lab, question, arms, rounds)
        if dry_run:
            return _dry_run(lab, question)
        result = lab.resume(promote=promote) if resume else lab.sweep(question, promote=promote)
        sweeps.say_failed(lab, result.sweep)
    show(result)
    if promote and result.promoted is None:
        raise typer.Exit(ExitCode.NOT_PROMOTED)


RUN = {"jobs", "executor", "trial_seconds", "retry", "json"}
"""Parameters that say how trials are run, and not what is asked."""
RULE = {"seeds", "delta", "alpha", "max_pairs"}
OF_NULL = {"null", "rounds", "arms", "simulate", "sigma"}
GOES_WITH = {
    "resume": ({"promote", *RUN}, "it goes on with what was asked last"),
    "simulate": ({"json", *RULE, *OF_NULL}, "it trains nothing"),
    "null": ({*RUN, *RULE, *OF_NULL, "budget", "set", "metric", "eval_task"}, "its arms are copies of the baseline"),
}
"""What a call means that is no sweep of named arms -> what else may be said of it; the rest would change nothing, or
something else than was meant."""


def _check_together(named: dict[str, str]) -> None:
    """Refuse what one call cannot mean at once, before it trains something else."""
    for missing, needed in (("sigma", "simulate"), ("simulate", "null"), ("rounds", "null"), ("arms", "null")):
        if missing in named and needed not in named:
            raise UsageError(f"{named[missing]} needs --{needed}", "foundry sweep --null --simulate --rounds 1000")
    for meaning, (others, why) in GOES_WITH.items():
        if meaning in named:
            for each in named.keys() - {meaning} - others:
                raise UsageError(f"--{meaning} does not go with {named[each]}", f"{why}: leave one of them out")


def show(result: SweepResult) -> None:
    """The end of a sweep: a table and a sentence, or one JSON object."""
    from foundry.cli import sweeps

    step = sweeps.next_step(result, typed())
    if render.wants_json():
        render.record({"event": "result", **result.to_json(), "next": step})
        return
    render.result(result.to_json(), lambda: sweeps.draw(result), step)


def _cost(text: str | None) -> dict[str, Any]:
    """`kv_bytes_per_token=0.5`: half the cost, a factor of 2."""
    if text is None:
        return {}
    axis, _, factor = text.partition("=")
    try:
        share = float(factor)
        if not 0 < share < 1:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--accept-cost {text}: is not COST=FACTOR with a factor below 1", "for example: kv_bytes_per_token=0.5"
        ) from None
    return {"cost": axis, "cost_factor": 1 / share}


def _factors(text: str | None) -> list[float]:
    try:
        factors = [float(part) for part in (text or "").split(",") if part.strip()]
        if any(not 0 < factor < float("inf") for factor in factors):
            raise ValueError
    except ValueError:
        raise UsageError(f"--lr-grid {text}: needs factors > 0", "for example: --lr-grid 0.5,2") from None
    return factors


def _null(lab: Lab, question: Question, arms: int, rounds: int) -> None:
    ends = []
    for end in lab.null_sweeps(question, arms=arms, rounds=rounds):
        ends.append(end)
        what = f"a false promotion: {end.winner}" if end.winner else "no promotion"
        lab.reporter.note(f"null sweep {len(ends)} of {rounds}: {what}")
    false = sum(end.winner is not None for end in ends)
    data = {"rounds": len(ends), "arms": arms, "false_promotions": false, "alpha": question.rule.alpha}
    data["trials"] = sum(end.runs for end in ends)
    _rates(data)


def _simulated(rule: Rule, sigma: float, arms: int, rounds: int) -> None:
    from foundry.lab import simulate_null

    if not 0 < sigma < float("inf"):
        raise UsageError(f"--sigma {sigma:g}: must be a number above 0", "for example: --sigma 0.005")
    rates = simulate_null(rule, sigma, 7, arms=arms, rounds=rounds, estimated=True)
    data = {"rounds": rounds, "arms": arms, "false_promotions": round(rates.promoted * rounds), "alpha": rule.alpha}
    _rates({**data, "trials": round(rates.runs * rounds), "sigma": sigma})


def _rates(data: dict[str, Any]) -> None:
    rate = data["false_promotions"] / data["rounds"]
    data["rate"] = rate
    columns = ("rounds", "arms", "false promotions", "rate", "stated", "trainings")
    row = [
        data["rounds"],
        data["arms"],
        data["false_promotions"],
        f"{rate:.3f}",
        f"<= {data['alpha']:g}",
        data["trials"],
    ]
    if render.wants_json():
        render.record({"event": "result", **data})
        return
    render.result(data, lambda: render.table(columns, [row]))


def _dry_run(lab: Lab, question: Question) -> None:
    planned = lab.dry_run(question)
    columns = ("arm", "changes", "FLOPs", "budget")
    rows = [
        (arm["arm"], "; ".join(arm["changes"]), f"{arm['flops']:.3g}" if arm["flops"] else "", arm["budget"])
        for arm in planned["arms"]
    ]

    def draw() -> None:
        render.table(columns, rows)
        for each in planned["refused"]:
            render.say(f"left out: {each['arm']}: {each['reason']}")
        for remark in planned["remarks"]:
            render.say(f"note: {remark}")
        render.say(planned["summary"])

    if render.wants_json():
        render.record({"event": "plan", **planned})
        return
    anything = len(planned["arms"]) > 1
    render.result(planned, draw, typed() if anything else "foundry mutate --list")
