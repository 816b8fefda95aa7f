"""foundry evolve: propose, sweep, keep, audit, promote, and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry.cli import history, render
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
    typed,
)

if TYPE_CHECKING:
    from foundry.lab import Evolved, Lab, Limits, SearchSettings


def evolve(
    max_hours: Annotated[
        float | None, typer.Option(metavar="H", help="Hours of this call.", show_default="no limit")
    ] = None,
    max_trials: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Trainings of the whole search, without those that measure the noise.",
            show_default="no limit",
        ),
    ] = None,
    max_flops: Annotated[
        float | None, typer.Option(metavar="F", help="FLOPs of the whole search.", show_default="no limit")
    ] = None,
    jobs: Jobs = 1,
    proposer: Annotated[
        str, typer.Option(metavar="NAME", help="evolutionary, random, grid, best_of_n, or a plugin's.")
    ] = "evolutionary",
    seed: Annotated[
        int, typer.Option(min=0, metavar="S", help="Seed of the search; another seed is another search.")
    ] = 0,
    proposals: Annotated[int, typer.Option(min=1, metavar="N", help="Proposals in a round.")] = 8,
    strict: Annotated[
        bool, typer.Option("--strict", help="Audit each kept proposal at once: slower if good ideas are common.")
    ] = False,
    budget: BudgetOption = None,
    set: SweepSets = None,
    metric: Metric = None,
    eval_task: Tasks = None,
    delta: Annotated[
        float | None,
        typer.Option(metavar="GAIN", help="The gain that an audit tests for.", show_default="max(0.01, 2 sigma)"),
    ] = None,
    alpha: Annotated[
        float, typer.Option(metavar="P", help="Probability that an audit passes a candidate that is no better.")
    ] = 0.05,
    max_pairs: Annotated[
        int, typer.Option(min=1, max=MOST_RUNS, metavar="N", help="Most pairs of runs in an audit.")
    ] = 16,
    confirm_at: Annotated[
        str | None,
        typer.Option(metavar="SCALE", help="The candidate must also be better at this scale: depth=2x or tokens=4x."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what the next step would train.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the last search, with its own settings.")] = False,
    executor: Executor = "local",
    trial_seconds: TrialSeconds = None,
    retry: Retry = False,
    json: Json = False,
) -> None:
    """Improve the baseline until a limit is reached.

    In each round, proposals are compared with the current candidate, one run each, and the best is kept for the time
    being. After some rounds an audit compares the candidate with the baseline on fresh seeds, and promotes it if it
    passes.
    It can be killed at any instant: the same command goes on.

    Example: foundry evolve --max-hours 8 --jobs 2
    """
    from foundry.cli import sweeps
    from foundry.core.project import find_project
    from foundry.lab import Limits, Policy, Rule, SearchSettings

    limits = Limits(max_trials, max_flops, max_hours)
    settings = SearchSettings(
        rule=Rule(
            metric=metric or (eval_task[0] if eval_task else "val_loss"),
            alpha=alpha,
            delta=delta,
            n_max=max_pairs,
            confirm_at=confirm_at or "",
        ),
        policy=Policy.strict(proposals) if strict else Policy(proposals),
        proposer=proposer,
        seed=seed,
        tasks=tuple(eval_task or ()),
        budget=parse_budget(budget),
        sets=tuple(set or ()),
    )
    with sweeps.laboratory(find_project(Path.cwd()), executor, jobs, trial_seconds, retry) as lab:
        if resume:
            settings = SearchSettings.last(lab.ledger)
        _preview(lab, settings, limits) if dry_run else _run(lab, settings, limits)


def _run(lab: Lab, settings: SearchSettings, limits: Limits) -> None:
    from foundry.lab import evolve

    evolved = evolve(lab, settings, limits, _teller(lab.reporter.note))
    step = "foundry lineage" if evolved.promotions else "foundry report"
    if render.wants_json():
        return render.record({"event": "result", **evolved.to_json(), "next": step})
    render.result(evolved.to_json(), lambda: _draw(evolved), step)


def _preview(lab: Lab, settings: SearchSettings, limits: Limits) -> None:
    from foundry.lab import preview_search

    planned = preview_search(lab, settings, limits)
    if render.wants_json():
        return render.record({"event": "plan", **planned})

    def draw() -> None:
        if planned["next"] is None:
            return render.say(f"search {planned['search']} would stop here: {planned['why']}")
        rows = [(arm["arm"], "; ".join(arm["changes"]), arm["budget"]) for arm in planned["arms"]]
        render.table(("arm", "changes", "budget"), rows)
        for each in planned["refused"]:
            render.say(f"left out: {each['arm']}: {each['reason']}")
        flops = f", {planned['flops']:.3g} FLOPs" if planned["flops"] else ""
        noise = f", after {planned['noise_trials']} for the noise" if planned["noise_trials"] else ""
        size, types = sum(map(len, planned["space"].values())), len(planned["space"])
        render.say(
            f"step {planned['steps'] + 1} of search {planned['search']}, {planned['next']}: at most "
            f"{planned['trials']} trainings{flops}{noise}; {size} mutations of {types} types to choose from"
        )

    render.result(planned, draw, typed())


def _teller(note: Callable[[str], None]) -> Callable[[Mapping[str, Any]], None]:
    """How a step is reported: an object with --json, a sentence otherwise."""

    def tell(facts: Mapping[str, Any]) -> None:
        if render.wants_json():
            return render.record(facts)
        note(_audit(facts) if facts["event"] == "audit" else _round(facts))

    return tell


def _round(facts: Mapping[str, Any]) -> str:
    scored = [each for each in facts["proposals"] if each["effect"] is not None]
    if facts["kept"]:
        what = f"kept {facts['kept']}, {facts['effect']:+.4f}, until the audit"
    elif scored:
        best = max(scored, key=lambda each: each["effect"])
        what = f"nothing kept; the best, {best['arm']}, {best['effect']:+.4f}"
    else:
        what = "nothing kept: no proposal has a score, or the control has none"
    return f"step {facts['step']}, round: {what}"


def _audit(facts: Mapping[str, Any]) -> str:
    became = f"generation {facts['generation']}" if facts["generation"] is not None else "not promoted"
    return f"step {facts['step']}, audit of {facts['stack']}: {became}: {facts['reason']}"


def _draw(evolved: Evolved) -> None:
    columns = ("audit", "effect", "interval", "pairs", "verdict", "generation")
    rows = []
    for each in evolved.audits:
        effect = history.signed(each.effect) or ""
        rows.append((each.arm, effect, each.interval, each.pairs, each.verdict, each.generation))
    if rows:
        render.table(columns, rows)
    types = sorted(evolved.keep_rates.items(), key=lambda item: (-item[1][0], item[1][1]))
    if types:
        render.table(("type", "kept", "tried"), [(type, kept, tried) for type, (kept, tried) in types])
    loss = "" if evolved.loss is None else f", {evolved.settings.rule.metric} {evolved.loss:.4f}"
    render.say(f"{evolved.why}; the baseline is generation {evolved.generation}{loss}")
    render.say(
        f"{evolved.rounds} rounds, {evolved.kept} of {evolved.tried} proposals kept; {len(evolved.audits)} audits, "
        f"{len(evolved.promotions)} promotions; {evolved.spent.trials} trainings"
    )
    if evolved.promotions:
        render.say(
            f"better by about {evolved.gain:.4f} together, which is too large on average, because an audit stops "
            f"when it looks good; by {evolved.least_gain:.4f} at least, if every interval holds"
        )
    render.say(f"false promotions to expect, at most: {evolved.expected_false:.2f}")
    if evolved.unverified:
        render.say(f"kept, and not audited yet: {evolved.unverified_arm}")
