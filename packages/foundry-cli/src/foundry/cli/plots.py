"""Plots for the commands that offer one: each as `outputs.picture` has let it pass."""

from __future__ import annotations

from io import BytesIO
from math import inf
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from foundry.cli import outputs, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from foundry.lab import Ablation, Compared


def draw_costs(figures: dict[str, Any], path: Path) -> None:
    """Three bar charts of `foundry.core.analyze.analyze`: parameters, FLOPs per token, memory."""
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
    _save(figure, path)


def draw_range_test(found: dict[str, Any], path: Path) -> None:
    """Loss over learning rate, as `foundry.lab.learning_rate.lr_find` measured it, with what was read off it."""
    from matplotlib.figure import Figure

    rates, losses, smoothed = ([point[key] for point in found["points"]] for key in ("rate", "loss", "smoothed"))
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, ".", color="#bbbbbb", markersize=4)
    axes.plot(rates, smoothed, color="#4477aa", linewidth=2)
    axes.axvline(found["steepest"], color="#999999", linestyle=":", label="falls fastest")
    axes.axvline(found["level"], color="#999999", linestyle="--", label="no longer falls")
    axes.axvline(found["suggestion"], color="#cc6677", label=f"suggested: {found['suggestion']:g}")
    # One step that diverged would flatten everything before it.
    lowest, highest = min(smoothed), max(losses[0], *smoothed)
    axes.set_ylim(lowest - 0.15 * (highest - lowest), highest + 0.05 * (highest - lowest))
    axes.set_xscale("log")
    axes.set(xlabel="training.learning_rate", ylabel="training loss", title=found["name"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(figure, path)


def draw_effects(done: Ablation, path: Path) -> None:
    """One bar per combination: how much better than the baseline it is, with its runs as dots."""
    from matplotlib.figure import Figure

    cells = [cell for cell in done.ranked() if cell is not done.cells[0] and cell.mean is not None]
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(cells)), layout="constrained")
    axes = figure.subplots()
    for place, cell in enumerate(cells):
        effect = done.effect(cell) or 0.0
        axes.barh(place, effect, color="#4477aa" if effect > 0 else "#cc6677", height=0.7)
        axes.plot(
            [done.gain(score) or 0.0 for score in cell.scores],
            [place] * len(cell.scores),
            ".",
            color="#222222",
            markersize=4,
        )
    axes.set_yticks(range(len(cells)), [cell.entry.arm for cell in cells])
    axes.axvline(0, color="#222222", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f"{done.metric}: better than the baseline by")
    axes.spines[["top", "right", "left"]].set_visible(False)
    _save(figure, path)


def draw_comparison(compared: Compared, path: Path) -> None:
    """The loss of A and B over training tokens: the mean of the runs, and each run in the background. Validation where
    it was measured on the way, else training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    # One point is no curve: most trials are validated at their end only.
    measured = [sum("val_loss" in row for row in curve) for curves in compared.curves for curve in curves]
    key = "val_loss" if measured and min(measured) > 2 else "train_loss"
    for arm, curves, color in zip(compared.pairing.arms, compared.curves, ("#4477aa", "#cc6677"), strict=True):
        at: dict[float, list[tuple[int, float]]] = {}  # by step: the rows of two seeds differ by some tokens
        for curve in curves:
            there = [row for row in curve if row.get(key) is not None]
            points = [(row["tokens"], row[key]) for row in there]
            axes.plot(*zip(*points, strict=True), color=color, linewidth=0.7, alpha=0.3)
            for row, point in zip(there, points, strict=True):
                at.setdefault(inf if row is curve[-1] else row["step"], []).append(point)
        means = [[sum(each) / len(each) for each in zip(*at[step], strict=True)] for step in sorted(at)]
        axes.plot(*zip(*means, strict=True), color=color, linewidth=1.8, label=arm)
    axes.set(xlabel="training tokens", ylabel=f"{key}, nats per token")
    axes.set_title("\n".join(wrap(compared.verdict, 90)), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    drawn = BytesIO()
    maker = "Software" if path.suffix == ".png" else "Creator"
    figure.savefig(drawn, format=path.suffix[1:], dpi=150, metadata={maker: outputs.MADE_BY})
    outputs.write(path, drawn.getvalue())
    render.say(f"wrote {render.place(path)}")
