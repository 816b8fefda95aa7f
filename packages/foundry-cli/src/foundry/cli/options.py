"""Options and arguments that several commands share."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from foundry.cli import render
from foundry.core.contracts import UsageError

if TYPE_CHECKING:
    from foundry.core.run import Run

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document; errors are JSON on stderr.")]
"""Only declared by a command, never read: `render` knows."""

Config = Annotated[
    Path | None,
    typer.Argument(metavar="CONFIG", help="An experiment file.", show_default="experiments/baseline.yaml"),
]

Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value: training.learning_rate=3e-4. A string is everything after the =. Repeatable.",
    ),
]

SweepSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Holds in every training, the baseline's too, and in nothing that is promoted: model_args.n_layer=2. "
        "Repeatable.",
    ),
]

RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, or the beginning of its name in the project's runs/.")
]

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="TYPE VARIANT", help="A mutation type, and its values.", show_default=False),
]
MoreAxes = Annotated[
    list[str] | None,
    typer.Option(
        "--axis",
        metavar="TYPE=A,B",
        help="One more axis: each combination of the axes is an arm. Repeatable.",
    ),
]

# What the commands that train trials share.

MOST_RUNS = 1000
"""The most runs of one arm that a command takes: enough for an effect of a tenth of the noise to be certain."""

Jobs = Annotated[int, typer.Option(min=1, metavar="N", help="Trials that are trained at the same time.")]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        metavar="BUDGET", help="Budget of a trial: 300 steps, 500k tokens, 1e12 flops.", show_default="the baseline's"
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Metric that decides: val_loss, val_bpb, or a task's: gsm8k.accuracy.",
        show_default="val_loss",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--eval-task",
        metavar="TASK",
        help="Also score every model on TASK, and rank by it: a name, or {type: NAME, SETTING: VALUE}. Repeatable.",
    ),
]
Executor = Annotated[
    str, typer.Option(metavar="NAME", help="What trains the trials: local, inline, or a plugin's executor.")
]
TrialSeconds = Annotated[
    float | None,
    typer.Option(
        min=1, metavar="S", help="Time limit of a trial; one that takes longer has failed.", show_default="no limit"
    ),
]

Retry = Annotated[
    bool, typer.Option("--retry", help="Train failed trials again (after a time limit, for example), and decide again.")
]


class TakesNumbers(TyperCommand):
    """A command whose values may be numbers: -3 is then a value out of range, and not an unknown option."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        # Only then, so that a mistyped option is reported as one. Beside a number it becomes a value that is unknown.
        ctx.ignore_unknown_options = any(re.match(r"-\.?[0-9]", word) for word in args)
        return super().parse_args(ctx, args)


def run_named(name: str, folder: Path | None = None) -> Run:
    """The run that RUN means.

    Args:
        folder: where the runs are; by default the project's.

    Raises:
        InvalidData: there is none, or more than one.
    """
    from foundry.core.project import find_project
    from foundry.core.run import find_run

    return find_run(name, folder or find_project(Path.cwd()) / "runs")


def train_command(
    config: Path | None, sets: Sequence[str] | None, out: Path | None = None, budget: str | None = None
) -> str:
    """The command line that trains the same experiment."""
    words = ["foundry", "train", *([render.place(config)] if config else [])]
    words += [word for assignment in sets or () for word in ("--set", assignment)]
    words += ["--budget", budget] if budget else []
    return shlex.join([*words, *(["--out", str(out)] if out else [])])


ONCE = ("--json", "--promote", "--resume", "--retry", "--dry-run")
"""Options that the suggested next command does not repeat."""


def typed() -> str:
    """The command line that was typed, without options that concern this call only."""
    return shlex.join(["foundry", *(word for word in sys.argv[1:] if word not in ONCE)])


def given(context: typer.Context) -> dict[str, str]:
    """The parameters of the running command: name -> how it is written, `--alpha`."""
    return {
        parameter.name: parameter.opts[0] if parameter.param_type_name == "option" else str(parameter.metavar)
        for parameter in context.command.params
        if parameter.name and (source := context.get_parameter_source(parameter.name)) and source.name == "COMMANDLINE"
    }


def stacks(words: list[str] | tuple[str, ...], axes: list[str] | tuple[str, ...]) -> tuple[Any, ...]:
    """The arms that a command line names: TYPE VARIANT... is one axis, each --axis another."""
    from foundry.lab import Axis

    if len(words) == 1:
        raise UsageError(
            f"{words[0]}: which variants?", f"`foundry mutate --list` shows them: foundry sweep {words[0]} A B"
        )
    named = [Axis(words[0], tuple(words[1:]))] if words else []
    named += [Axis.parse(text) for text in axes]
    return Axis.grid(named) if named else ()


def parse_budget(text: str | None) -> Any:
    """The `Budget` that --budget asks for; None: the baseline's own."""
    from foundry.lab import Budget

    return None if text is None else Budget.parse(text)
