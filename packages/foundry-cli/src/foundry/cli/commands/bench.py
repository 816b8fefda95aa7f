"""foundry bench: which threads, kernels, precision and compilation are fastest here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from foundry.cli import render
from foundry.cli.options import Config, Json, Sets, train_command


def bench(
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


def _row(choice: dict[str, Any]) -> list[str]:
    head = [str(choice["threads"]), choice["kernels"], choice["precision"], str(choice["compile"]).lower()]
    if "error" in choice:
        return [*head, choice["error"], "", ""]
    mfu = f"{choice['mfu']:.1%}" if "mfu" in choice else "n/a"
    return [*head, f"{choice['tokens_per_second']:,.0f}", f"{choice['step_seconds'] * 1e3:.2f}", mfu]
