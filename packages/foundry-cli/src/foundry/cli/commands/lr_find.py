"""foundry lr-find: a learning rate to begin with."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Annotated, Any

import typer

from foundry.cli import outputs, render
from foundry.cli.options import Config, Json, Sets, train_command

ROWS = 20
"""Of the table, at most: every fifth step of a hundred."""
BAR = 24
"""Columns of the longest bar."""


def lr_find(
    config: Config = None,
    sets: Sets = None,
    low: Annotated[float, typer.Option(help="The learning rate of the first step.")] = 1e-5,
    high: Annotated[
        float, typer.Option(help="The learning rate of the last step; the test ends before, if the loss rises.")
    ] = 1.0,
    steps: Annotated[int, typer.Option(metavar="N", help="Optimizer steps: more are slower and less noisy.")] = 100,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw loss over learning rate: .png, .svg or .pdf.", callback=outputs.picture
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Suggest a learning rate for CONFIG. It trains some steps while the learning rate rises.

    The range test of arXiv:1506.01186. If an optimizer has a second learning rate, like Muon, their ratio
    stays the same.

    Example: foundry lr-find experiments/baseline.yaml --plot lr.png
    """
    from foundry.cli.plots import draw_range_test
    from foundry.cli.progress import reporter
    from foundry.core.config import load_experiment
    from foundry.lab import lr_find

    experiment = load_experiment(config, sets or ())
    with reporter() as reports:
        found = lr_find(experiment, low=low, high=high, steps=steps, reporter=reports)
    if plot:
        draw_range_test(found, plot)
    render.result(found, lambda: _draw(found), train_command(config, [*(sets or ()), *found["sets"]]))


def _draw(found: dict[str, Any]) -> None:
    """Some of the steps, among them those that were read off, with bars that are the plot."""
    points = found["points"]
    named = {
        _nearest(points, found["steepest"]): "falls fastest",
        _nearest(points, found["level"]): "no longer falls",
        _nearest(points, found["suggestion"]): "suggested",
    }
    lowest, highest = (pick(point["smoothed"] for point in points) for pick in (min, max))
    every = -(-len(points) // ROWS)
    rows = []
    for place, point in enumerate(points):
        if place % every == 0 or place in named or place == len(points) - 1:
            share = (point["smoothed"] - lowest) / (highest - lowest)
            bar = "█" * round(1 + (BAR - 1) * share)
            rows.append((f"{point['rate']:.1e}", f"{point['smoothed']:.4f}", bar, named.get(place, "")))
    render.table(("learning rate", "training loss, smoothed", "", ""), rows)
    render.line(f"suggested learning rate {found['suggestion']:g}; the experiment has {found['learning_rate']:g}")
    render.say(f"the loss {found['ended']}")


def _nearest(points: list[dict[str, float]], rate: float) -> int:
    return min(range(len(points)), key=lambda place: abs(log(points[place]["rate"] / rate)))
