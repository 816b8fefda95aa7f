"""foundry bench choices | step | attention: how fast this machine trains.

`foundry bench [CONFIG]` is `foundry bench choices [CONFIG]`: which threads, kernels, precision and compilation are
fastest. The others hold models against each other, by the choices that the baseline makes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from foundry.cli import render
from foundry.cli.options import Config, Json, MoreAxes, Sets, TakesNumbers, Words, stacks, train_command
from foundry.core.contracts import ExitCode, UsageError

if TYPE_CHECKING:
    from foundry.core.config import Experiment


class OrChoices(TyperGroup):
    """A group of commands, of which `choices` need not be said."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["choices", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=OrChoices,
    help="Measure how fast this machine trains. `foundry bench [CONFIG]` is `foundry bench choices [CONFIG]`.",
)

Base = Annotated[
    Path | None, typer.Option(metavar="CONFIG", help="What is varied.", show_default="experiments/baseline.yaml")
]
Lengths = Annotated[
    str | None,
    typer.Option(
        metavar="T,T", help="Tokens of a row; a step has as many in all.", show_default="block_size times 1, 2, 4"
    ),
]
Rounds = Annotated[int, typer.Option(min=1, metavar="N", help="Turns of each, one after the other.")]


@app.command()
def choices(
    config: Config = None,
    sets: Sets = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds to measure each choice.")] = 3.0,
    json: Json = False,
) -> None:
    """Measure how fast CONFIG trains. Under each choice, with the --set to use.

    Training never chooses these by itself, because they change the numbers: write the best into the file.

    Example: foundry bench experiments/baseline.yaml
    """
    from foundry.core.config import load_experiment
    from foundry.core.training import padding_of, vocab_size_of
    from foundry.core.training.bench import bench

    experiment = load_experiment(config, sets or ())
    measured = bench(
        experiment,
        vocab_size_of(experiment),
        padding=padding_of(experiment),
        seconds=seconds,
        note=lambda text: render.say(f"... {text}"),
    )
    columns = ("threads", "kernels", "precision", "compile", "tokens/s", "ms/step", "MFU")
    render.result(
        measured,
        lambda: render.table(columns, map(_row, measured["choices"])),
        train_command(config, [*(sets or ()), *measured["sets"]]),
    )


@app.command(cls=TakesNumbers)
def step(
    words: Words = None,
    axis: MoreAxes = None,
    base: Base = None,
    sets: Sets = None,
    lengths: Lengths = None,
    rounds: Rounds = 8,
    json: Json = False,
) -> None:
    """Time optimizer steps of mutations, side by side. Whole steps, the baseline's first, on random tokens.

    They take turns, and a ratio is the median over the rounds: seconds drift, ratios do not.

    \b
    foundry bench step attention mha gqa_1kv --lengths 128,1024
    foundry bench step --axis norm=layernorm,dyt
    """
    from foundry.core.training import vocab_size_of
    from foundry.core.training.side_by_side import bench_steps

    baseline = _base(base, sets)
    arms = {"baseline": baseline}
    for stack in stacks(words or [], axis or []):
        arms[" + ".join(f"{type} {value}" for type, value in stack)] = _mutated(baseline, stack)
    sizes = {name: vocab_size_of(experiment) for name, experiment in arms.items()}
    measured = bench_steps(arms, sizes, _lengths(lengths, baseline), rounds, _note)

    def draw() -> None:
        _say_where(measured)
        columns = (
            "arm",
            "T",
            "rows",
            "ms/step",
            "from",
            "to",
            "x the first",
            "tokens/s",
            "FLOP/s",
            "of the limit",
        )
        render.table(columns, [_step_row(each) for each in measured["arms"]])

    said = shlex.join([*(words or ()), *(word for each in axis or () for word in ("--axis", each))])
    next_step = f"foundry sweep {said}" if said else "foundry bench step attention mha gqa_1kv"
    _end(baseline, measured, draw, next_step)


@app.command()
def attention(
    variants: Annotated[
        list[str] | None,
        typer.Argument(metavar="VARIANT", help="Attentions: mha, gqa_1kv, ...", show_default="all that there are"),
    ] = None,
    base: Base = None,
    sets: Sets = None,
    lengths: Lengths = None,
    rounds: Rounds = 8,
    json: Json = False,
) -> None:
    """Time the baseline's attention and others, side by side. The first layer's, with its projections, without dropout.

    Forward and backward; and a token that is written after a cached text of T tokens. They take turns, and a ratio is
    the median over the rounds: seconds drift, ratios do not.

    Example: foundry bench attention gqa_1kv sliding_window --lengths 256,1024,4096
    """
    from foundry.core.training.side_by_side import bench_attention

    baseline = _base(base, sets)
    arms = {"baseline": baseline}
    for variant in variants or baseline.registry.variants("attention"):
        mutated = _mutated(baseline, (("attention", variant),))
        if variants or mutated.identity != baseline.identity:
            arms[variant] = mutated
    measured = bench_attention(arms, _lengths(lengths, baseline), rounds, _note)

    def draw() -> None:
        _say_where(measured)
        columns = ("attention", "T", "rows", "ms", "from", "to", "x the first", "tokens/s", "kept for backward")
        render.table(
            (*columns, "ms, a token more", "KV bytes/token"), [_attention_row(each) for each in measured["arms"]]
        )

    longest = [each for each in measured["arms"] if each["length"] == max(row["length"] for row in measured["arms"])]
    others = [each for each in longest if "seconds" in each and each["arm"] != "baseline"]
    fastest = min(others, key=lambda each: each["ratio"], default={"arm": "mha"})["arm"]
    _end(baseline, measured, draw, f"foundry bench step attention {fastest}")


def _row(choice: dict[str, Any]) -> list[str]:
    head = [str(choice["threads"]), choice["kernels"], choice["precision"], str(choice["compile"]).lower()]
    if "error" in choice:
        return [*head, choice["error"], "", ""]
    mfu = f"{choice['mfu']:.1%}" if "mfu" in choice else "n/a"
    return [*head, f"{choice['tokens_per_second']:,.0f}", f"{choice['step_seconds'] * 1e3:.2f}", mfu]


def _base(base: Path | None, sets: list[str] | None) -> Experiment:
    from foundry.core.config import load_experiment

    experiment = load_experiment(base, sets or ())
    render.problems(experiment.registry.problems)
    return experiment


def _mutated(experiment: Experiment, stack: Sequence[tuple[str, str]]) -> Experiment:
    from foundry.core.config.mutate import mutate

    for type, value in stack:
        experiment = mutate(experiment, type, value).experiment
    return experiment


def _lengths(text: str | None, baseline: Experiment) -> list[int]:
    if text is None:
        return [baseline.model_args.block_size * times for times in (1, 2, 4)]
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"--lengths {text}: not a list of token counts", "--lengths 128,512")
    return [int(word) for word in words]


def _note(text: str) -> None:
    render.say(f"... {text}")


def _end(baseline: Experiment, measured: dict[str, Any], draw: Callable[[], None], next_step: str) -> None:
    render.result({"name": baseline.name, **measured}, draw, next_step)
    if all("error" in arm for arm in measured["arms"]):
        raise typer.Exit(ExitCode.FAILURE)


def _say_where(measured: dict[str, Any]) -> None:
    threads, rounds = (f"{measured[of]} {of.rstrip('s')}{'s' * (measured[of] > 1)}" for of in ("threads", "rounds"))
    machine = f"{measured['device']}, {threads}, {measured['precision']}, kernels {measured['kernels']}"
    render.say(f"{machine}; medians and quartiles of {rounds}")


def _common(row: dict[str, Any]) -> list[str]:
    head = [row["arm"], str(row["length"])]
    if "error" in row:
        return [*head, row["error"]]
    low, high = (f"{each * 1e3:.2f}" for each in row["seconds_between"])
    ratio = "{:.2f} [{:.2f}, {:.2f}]".format(row["ratio"], *row["ratio_between"])
    return [
        *head,
        str(row["rows"]),
        f"{row['seconds'] * 1e3:.2f}",
        low,
        high,
        ratio,
        f"{row['tokens_per_second']:,.0f}",
    ]


def _step_row(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return _common(row)
    return [*_common(row), f"{row['flops_per_second']:.2e}", f"{row['mfu']:.1%}" if "mfu" in row else "n/a"]


def _attention_row(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return _common(row)
    decode = f"{row['decode_seconds'] * 1e3:.3f}"
    return [*_common(row), render.size(row["bytes_kept"]), decode, f"{row['kv_bytes_per_token']:,.0f}"]
