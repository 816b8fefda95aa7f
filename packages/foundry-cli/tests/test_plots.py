"""What the plots show: each line, bar and word of them, read off the figures before they are files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.colors import to_hex
from tests.golden import assert_golden

from foundry.cli import plots
from foundry.cli.commands import lr_find
from foundry.lab import Ablation

pytestmark = pytest.mark.quick

GOLDEN = Path(__file__).parent / "golden"
RANGE_TEST = {
    "name": "tiny",
    "learning_rate": 1e-3,
    "suggestion": 2e-3,
    "steepest": 1e-3,
    "level": 1e-2,
    "ended": "has risen too far",
    "points": [
        {"rate": 10 ** (-5 + i / 8), "loss": 4 - 0.05 * i + (i == 32) * 9, "smoothed": 4 - 0.05 * i} for i in range(33)
    ],
}


def ablation() -> Ablation:
    """A baseline, an arm that is better, one that is worse, and one without a score."""
    arms = {"baseline": (2.0, 2.2), "norm layernorm": (1.9, 2.0), "depth 3": (2.3, 2.5), "lr 1": ()}
    cells = [
        SimpleNamespace(entry=SimpleNamespace(arm=arm), scores=scores, mean=sum(scores) / 2 if scores else None)
        for arm, scores in arms.items()
    ]
    return Ablation("sweep", "val_loss", False, tuple(cells), (), 0.1)


def comparison(validated: bool) -> SimpleNamespace:
    """Two seeds each of A and B, whose last rows differ by a step."""

    def curve(start: float, last: int) -> list[dict]:
        steps = [10, 20, 30, last]
        rows = [{"step": step, "tokens": 100 * step, "train_loss": start - step / 100} for step in steps]
        return [row | ({"val_loss": row["train_loss"] + 1} if validated else {}) for row in rows]

    curves = tuple([curve(start, 40), curve(start + 0.5, 41)] for start in (3.0, 2.0))
    pairing = SimpleNamespace(arms=("mine", "yours"))
    return SimpleNamespace(pairing=pairing, curves=curves, verdict="yours is better " * 12)


def told(figure) -> str:
    """The figure's words and numbers, a part on each line."""
    lines = [f"figure {figure.get_suptitle()}"]
    for axes in figure.axes:
        limits = " to ".join(f"{end:.4g}" for end in axes.get_ylim())
        lines.append(f"axes {axes.get_title()!r}, {axes.get_xlabel()!r} in {axes.get_xscale()}, {axes.get_ylabel()!r}")
        names = ", ".join(text.get_text() for text in axes.get_yticklabels()) if axes.patches else "numbers"
        lines.append(f"  y from {limits}, at {names}")
        for line in axes.lines:
            points = " ".join(f"({x:.4g}, {y:.4g})" for x, y in zip(*line.get_data(), strict=True))
            name = "" if line.get_label().startswith("_") else f" {line.get_label()!r}"
            lines.append(f"  line{name}, {line.get_color()} {line.get_linestyle()}: {points}")
        bars = [(bar.get_width(), bar.get_y(), to_hex(bar.get_facecolor())) for bar in axes.patches]
        lines += [f"  bar {width:.4g} at {place:.3g}, {color}" for width, place, color in bars]
        lines += [f"  text {text.get_text()}" for text in axes.texts]
    return "\n".join(lines)


def test_every_line_and_word_of_the_plots(monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    sizes = {"embedding": 1000, "attention": 2000}
    memory = {"weights": 3 * 2**20, "gradients": 5 * 2**20, "total": 8 * 2**20}
    costs = {"name": "tiny", "parameters": 3000, "parameters_by_part": sizes, "memory": memory}
    plots.draw_costs({**costs, "flops_per_token_by_part": {"head": 7, "attention": 9}}, Path("costs.png"))
    plots.draw_range_test(RANGE_TEST, Path("range.png"))
    plots.draw_effects(ablation(), Path("effects.png"))
    for validated in (True, False):
        plots.draw_comparison(comparison(validated), Path("comparison.png"))
    assert_golden(GOLDEN / "plots.txt", "\n\n".join(map(told, figures)) + "\n")


def test_the_table_of_a_range_test_is_its_plot(capsys):
    """Every second step of 33, what was read off, and the last."""
    lr_find._draw(RANGE_TEST)
    shown = capsys.readouterr()
    assert_golden(GOLDEN / "lr_find.txt", shown.out + shown.err)
