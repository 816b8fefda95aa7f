"""foundry train: train an experiment, or go on with its run."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry.cli import render
from foundry.cli.commands.analyze import scaling_rows
from foundry.cli.options import Config, Json, Sets, train_command
from foundry.core.contracts import UsageError

if TYPE_CHECKING:
    from foundry.core.config import Experiment


class Resume(StrEnum):
    auto = "auto"
    must = "must"
    never = "never"


def train(
    config: Config = None,
    sets: Sets = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="BUDGET",
            help="How long: 300 steps, 500k tokens, 1e12 flops, 60 seconds.",
            show_default="the experiment's",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run folder.", show_default="runs/NAME-HASH8-SEED")
    ] = None,
    resume: Annotated[
        Resume, typer.Option(help="auto: resume if there is a checkpoint; must: fail without one; never: start afresh.")
    ] = Resume.auto,
    nproc: Annotated[int, typer.Option(min=1, metavar="N", help="Ranks on this machine (DDP).")] = 1,
    eval_only: Annotated[
        bool, typer.Option("--eval-only", help="Only evaluate the last checkpoint of CONFIG's run, or of --out RUN.")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Trace a few steps to RUN/profile/trace.json.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and what it costs.")] = False,
    json: Json = False,
) -> None:
    """Train CONFIG, or resume its run. If the run is finished, print its result.

    Ctrl-C saves a checkpoint; the same command resumes from there.

    Example: foundry train experiments/baseline.yaml --budget "100 steps" --set seed=7
    """
    from foundry.core.config import load_experiment
    from foundry.core.config.budget import Budget, with_budget

    if eval_only and out and not (config or sets or budget):
        return _evaluate(out)
    experiment = load_experiment(config, sets or ())
    if budget:
        experiment = with_budget(experiment, Budget.parse(budget))
    render.problems(experiment.registry.problems)
    if eval_only:
        from foundry.core.run import default_run

        return _evaluate(out or default_run(experiment).path, experiment)
    if dry_run:
        from foundry.core.training import plan

        planned = plan(experiment, out)
        for remark in planned["remarks"]:
            render.say(f"note: {remark}")
        return render.result(planned, lambda: _draw(planned), train_command(config, sets, out, budget))
    if nproc > 1 and "RANK" not in os.environ:
        from foundry.core.training.distributed import check_ranks
        from foundry.core.training.launch import launch

        check_ranks(experiment.training, nproc)
        raise typer.Exit(launch(sys.argv[1:], nproc))
    if nproc > 1 and int(os.environ.get("WORLD_SIZE", 1)) != nproc:
        raise UsageError(f"--nproc {nproc}, but {os.environ.get('WORLD_SIZE', 1)} ranks were started")
    from foundry.cli.progress import reporter
    from foundry.core.training import train

    with reporter() as reports:
        result = train(experiment, out, resume=resume.value, reporter=reports, profile=profile)
    if int(os.environ.get("RANK", 0)) == 0:
        render.result(result, lambda: _draw(result), f"foundry generate {render.argument(result['run'])}")


def _evaluate(run: Path, experiment: Experiment | None = None) -> None:
    from foundry.cli.progress import reporter
    from foundry.core.training import evaluate_run

    with reporter() as reports:
        scored = evaluate_run(run, experiment, reporter=reports)
    if int(os.environ.get("RANK", 0)) == 0:
        render.result(scored, lambda: _draw(scored))


def _draw(figures: dict[str, Any]) -> None:
    """Key, value: nested figures as dotted keys."""
    from foundry.core.code import several_codes

    rows = []
    for key, value in figures.items():
        if key == "scaling":
            rows += scaling_rows(figures)
        elif key in ("learning_rates", "remarks"):  # told with the scale rule that they follow from, and above
            continue
        elif isinstance(value, dict):
            rows += [(f"{key}.{inner}", _figure(number)) for inner, number in value.items()]
        elif key == "run":
            rows.append((key, render.place(value)))
        elif key == "codes":
            if remark := several_codes(figures):
                rows.append((key, remark))
        elif key == "seed":  # a name, not a count
            rows.append((key, str(value)))
        elif key != "schema_version" and value is not None:
            rows.append((key, _figure(value)))
    render.table(("", "value"), rows)


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
