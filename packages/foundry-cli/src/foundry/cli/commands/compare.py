"""foundry compare: which of two experiments is better."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry.cli import outputs, render
from foundry.cli.options import (
    MOST_RUNS,
    BudgetOption,
    Executor,
    Jobs,
    Json,
    Metric,
    Retry,
    Sets,
    TrialSeconds,
    parse_budget,
    train_command,
    typed,
)

if TYPE_CHECKING:
    from foundry.lab import Compared, Pairing

COSTS = {
    "parameters": "parameters",
    "flops_per_token": "FLOPs per token, forward",
    "kv_bytes_per_token": "KV bytes per token",
}


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="An experiment file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    seeds: Annotated[
        int, typer.Option(min=1, max=MOST_RUNS, metavar="N", help="Most seeds of each; fewer if they decide.")
    ] = 16,
    jobs: Jobs = 1,
    budget: BudgetOption = None,
    set: Sets = None,
    metric: Metric = None,
    delta: Annotated[
        float | None,
        typer.Option(metavar="D", help="The difference to look for.", show_default="max(0.01, 2 sigma)"),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the loss of both over tokens: .png, .svg or .pdf.", callback=outputs.picture
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what differs, and what would be trained.")] = False,
    executor: Executor = "local",
    trial_seconds: TrialSeconds = None,
    retry: Retry = False,
    json: Json = False,
) -> None:
    """Train A and B until it is clear which is better. Both have the same seeds and rows.

    A trial that was trained before is looked up. Ctrl-C stops the comparison; the same command resumes it.

    Example: foundry compare experiments/baseline.yaml experiments/attn_mha.yaml --jobs 2
    """
    from foundry.cli import sweeps
    from foundry.cli.plots import draw_comparison
    from foundry.core.config import load_experiment
    from foundry.lab import Pairing, Rule

    a, b = load_experiment(first, set or ()), load_experiment(second, set or ())
    rule = Rule(metric=metric or "val_loss", n_max=seeds, delta=delta)
    pairing = Pairing.of(a, b, rule, budget=parse_budget(budget), jobs=jobs)
    _say_what_differs(pairing)
    with sweeps.laboratory(a.project, executor, jobs, trial_seconds, retry) as lab:
        if dry_run:
            planned = {**_what_differs(pairing), **pairing.preview(lab)}
            if render.wants_json():
                return render.record({"event": "plan", **planned})
            return render.result(planned, lambda: _draw_plan(planned), typed())
        compared = pairing.run(lab)
    if plot:
        draw_comparison(compared, plot)
    better = {"first": first, "second": second}.get(compared.comparison.choice)
    both = f"{render.argument(first)} {render.argument(second)}"
    step = train_command(better, set, budget=budget) if better else f"foundry config diff {both}"
    if compared.comparison.choice == "undecided" and seeds < MOST_RUNS:
        step = f"{re.sub(r' --seeds[ =][0-9]+', '', typed())} --seeds {min(2 * seeds, MOST_RUNS)}"
    if render.wants_json():
        render.record({"event": "result", **_facts(compared), "next": step})
        return
    render.result({}, lambda: _draw(compared), step)


def _say_what_differs(pairing: Pairing) -> None:
    for change in pairing.differences:
        render.say(str(change))
    for words in pairing.made_equal:
        render.say(f"made equal: {words}")
    for remark in pairing.remarks:
        render.say(f"note: {remark}")


def _what_differs(pairing: Pairing) -> dict[str, Any]:
    return {
        "arms": list(pairing.arms),
        "differences": [vars(change) for change in pairing.differences],
        "made_equal": list(pairing.made_equal),
        "remarks": list(pairing.remarks),
    }


def _facts(compared: Compared) -> dict[str, Any]:
    """Everything but the curves, which `foundry query` has."""
    plan = compared.pairing.plan
    sides = [
        {"arm": entry.arm, "identity": entry.identity, **means, **{cost: entry.costs[cost] for cost in COSTS}}
        for entry, means in zip(plan.entries, compared.means, strict=True)
    ]
    return {
        "sweep": compared.sweep,
        **_what_differs(compared.pairing),
        "metric": plan.question.rule.metric,
        "sides": sides,
        **compared.comparison.to_json(),
        "sigma": plan.sigma,
        "df": plan.df,
        "verdict": compared.verdict,
    }


def _draw(compared: Compared) -> None:
    plan, (ours, theirs) = compared.pairing.plan, compared.means
    first, second = plan.entries
    rows = [
        (name, f"{ours[name]:.4f}", f"{theirs[name]:.4f}", f"{theirs[name] - ours[name]:+.4f}")
        for name in ours
        if name in theirs and name != "tokens_per_second"
    ]
    costs = [(words, first.costs[cost], second.costs[cost]) for cost, words in COSTS.items()]
    speeds = [each.get("tokens_per_second") for each in (ours, theirs)]
    if speeds[0] and speeds[1]:
        costs.append(("tokens/s in training", speeds[0], speeds[1]))
    if first.flops and second.flops:
        costs.append(("FLOPs of a training", first.flops, second.flops))
    rows += [(words, _number(a), _number(b), f"x {b / a:.3f}" if a else "") for words, a, b in costs]
    render.table(("mean of the runs", first.arm, second.arm, "B against A"), rows)
    render.line(compared.verdict)


def _draw_plan(planned: dict[str, Any]) -> None:
    flops = planned["flops_per_trial"]
    rows: list[tuple[str, str]] = [
        ("trials to measure the noise first", str(planned["noise_trials"])),
        ("trials, both together", f"{planned['least_trials']} to {planned['most_trials']}"),
    ]
    rows += [
        (f"FLOPs of a training of {arm}", "counted in seconds" if count is None else _number(count))
        for arm, count in zip(planned["arms"], flops, strict=True)
    ]
    rows.append((f"seconds of a training of {planned['arms'][0]}, about", f"{planned['seconds_per_trial']:,.0f}"))
    render.table(("", "value"), rows)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value < 1e12 else f"{value:.3g}"
