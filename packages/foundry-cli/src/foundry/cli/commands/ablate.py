"""foundry ablate: every combination of some axes, side by side."""

from __future__ import annotations

import csv
import io
import shlex
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
    SweepSets,
    Tasks,
    TrialSeconds,
    parse_budget,
    stacks,
)

if TYPE_CHECKING:
    from foundry.lab import Ablation


def ablate(
    axis: Annotated[list[str], typer.Option(metavar="TYPE=A,B", help="One axis of the grid. Repeatable.")],
    seeds: Annotated[int, typer.Option(min=1, max=MOST_RUNS, metavar="N", help="Runs of each combination.")] = 2,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a table with a row for each combination.", callback=outputs.table),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the effects: .png, .svg or .pdf.", callback=outputs.picture),
    ] = None,
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
    """Train every combination of some axes, and tabulate the effects. All have the same seeds.

    It only describes; `foundry sweep` decides. The same command resumes it after a stop.

    Example: foundry ablate --axis attention=mha,gqa_2kv --axis norm=rmsnorm,layernorm --csv ablation.csv
    """
    from foundry.cli import plots, sweeps
    from foundry.core.project import find_project
    from foundry.lab import Ablation, Question, Rule

    rule = Rule(metric=metric or (eval_task[0] if eval_task else "val_loss"))
    tasks, sets = tuple(eval_task or ()), tuple(set or ())
    question = Question(stacks((), axis), rule, parse_budget(budget), (), tasks, sets)
    with sweeps.laboratory(find_project(Path.cwd()), executor, jobs, trial_seconds, retry) as lab:
        done = Ablation.run(lab, question, seeds)
        sweeps.say_failed(lab, done.sweep)
    if csv is not None:
        _write_csv(done.rows(), csv)
    if plot is not None:
        plots.draw_effects(done, plot)
    several = (("--axis", axis), ("--eval-task", tasks), ("--set", sets))
    asked = [(option, text) for option, texts in several for text in texts]
    asked += [(option, text) for option, text in (("--budget", budget), ("--metric", metric)) if text]
    words = [word for each in asked for word in each]
    step = shlex.join(["foundry", "sweep", *words, "--promote"])
    if render.wants_json():
        render.record({"event": "result", **done.to_json(), "next": step})
        return
    render.result(done.to_json(), lambda: _draw(done), step)


def _draw(done: Ablation) -> None:
    columns = ("arm", "runs", done.metric, "effect", "FLOPs", "failures")
    render.table(columns, [_row(done, cell) for cell in done.ranked()])
    for each in done.refused:
        render.say(f"left out: {each}")
    if done.sigma is not None:
        render.say(f"over seeds, one run has a standard deviation of {done.sigma:.4f}; effect > 0 is better")


def _row(done: Ablation, cell: Any) -> list[Any]:
    mean = "" if cell.mean is None else f"{cell.mean:.4f}"
    effect = done.effect(cell)
    flops = "" if cell.entry.flops is None else f"{cell.entry.flops:.3g}"
    return [cell.entry.arm, len(cell.scores), mean, "" if effect is None else f"{effect:+.4f}", flops,
            "; ".join(cell.failures)]  # fmt: skip


def _write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    outputs.write(path, out.getvalue().encode())
    render.say(f"wrote {render.place(path)}")
