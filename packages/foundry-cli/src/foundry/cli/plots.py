"""Plots for the commands that offer one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foundry.core.contracts import EnvironmentFailure, UsageError

SUFFIXES = (".png", ".svg", ".pdf")


def draw_costs(figures: dict[str, Any], path: Path) -> None:
    """Three bar charts of `foundry.core.analyze.analyze`: parameters, FLOPs per token, memory.

    Raises:
        UsageError: the file's suffix is not one that can be drawn.
        EnvironmentFailure: the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"cannot draw {path}: use one of {', '.join(SUFFIXES)}")
    from matplotlib.figure import Figure

    charts = (
        ("parameters", figures["parameters_by_part"], 1),
        ("FLOPs per token, forward", figures["flops_per_token_by_part"], 1),
        ("training memory, MiB", {k: v for k, v in figures["memory"].items() if k != "total"}, 2**20),
    )
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (title, values, unit) in zip(figure.subplots(1, 3), charts, strict=True):
        bars = axes.barh(list(values), [value / unit for value in values.values()], color="#4477aa")
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.set_xticks([])  # every bar carries its number
    figure.suptitle(f"{figures['name']}: {figures['parameters']:,} parameters")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise EnvironmentFailure(f"cannot write {path}: {error.strerror}", "choose another file") from error
