"""foundry analyze: what a model costs before it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foundry.cli import outputs, render
from foundry.cli.options import Config, Json, Sets, train_command


def analyze(
    config: Config = None,
    sets: Sets = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(min=1, help="Vocabulary size of the tokenizer.", show_default="the experiment's own tokenizer's"),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw parameters, FLOPs and memory: .png, .svg or .pdf.", callback=outputs.picture
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Count what CONFIG costs. For each part: parameters, FLOPs, KV-cache bytes and training memory.

    CONFIG may also be a name of the zoo; its model is counted without a download. The model is built without memory for
    its weights: this runs the code of its variants, and the project's variants/*.py.

    \b
    foundry analyze experiments/baseline.yaml --set model_args.attention=gqa_1kv --plot cost.png
    foundry analyze llama3-8b --set model_args.block_size=8192
    """
    from foundry.core.analyze import analyze
    from foundry.core.config import load_experiment
    from foundry.core.training import vocab_size_of
    from foundry.zoo.sizes import experiment_named, is_named

    if config and not config.exists() and is_named(str(config)):
        experiment, known = experiment_named(str(config), sets or ())
        figures, next_step = analyze(experiment, vocab_size or known), f"foundry zoo pull {config}"
    else:
        experiment = load_experiment(config, sets or ())
        figures = analyze(experiment, vocab_size or vocab_size_of(experiment))
        next_step = train_command(config, sets)
    if plot:
        from foundry.cli.plots import draw_costs

        draw_costs(figures, plot)
    render.result(figures, lambda: _draw(figures), next_step)


def _draw(figures: dict[str, Any]) -> None:
    parameters, flops, total = figures["parameters_by_part"], figures["flops_per_token_by_part"], figures["parameters"]
    rows = [
        (part, f"{count:,}", f"{count / total:.1%}", f"{flops[part]:,.0f}" if part in flops else "")
        for part, count in parameters.items()
    ]
    rows += [(part, "0", "0.0%", f"{count:,.0f}") for part, count in flops.items() if part not in parameters]
    rows.append(("total", f"{total:,}", "100.0%", f"{figures['flops_per_token']:,.0f}"))
    render.table(("part", "parameters", "share", "FLOPs per token"), rows)
    memory = figures["memory"]
    render.table(
        ("", "value"),
        [
            ("active parameters", f"{figures['active_parameters']:,}"),
            ("vocabulary", f"{figures['vocab_size']:,}"),
            ("training FLOPs per token", f"{figures['training_flops_per_token']:,.0f}"),
            ("KV cache bytes per token", f"{figures['kv_bytes_per_token']:,.0f}"),
            *((f"memory: {part}", render.size(count)) for part, count in memory.items()),
            *scaling_rows(figures),
        ],
    )


def scaling_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The scale rule and the learning rates that it leads to."""
    rule = figures["scaling"]
    base = ", ".join(f"{size} {number}" for size, number in rule["base"].items())
    rows = [("scaling", f"{rule['type']}, from {base}" if base else rule["type"])]
    rows += [(f"scaling: {name}", f"times {factor:.4g}") for name, factor in rule["multipliers"].items()]
    return rows + [
        (f"learning rate: {each['optimizer']}", f"{each['rate']:.3g} of {each['parameters']:,} parameters")
        for each in figures["learning_rates"]
    ]
