"""How a training run looks while it happens: a bar on a terminal, one greppable line every log_interval steps off it,
nothing with --json (metrics.jsonl in the run folder is the stream)."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from foundry.cli import render
from foundry.core.run import EXPERT_FIELDS
from foundry.core.training.reporter import PlainReporter, Reporter, format_row

WIDE = 80
"""Columns of a terminal from which on the bar has the speed beside it."""
FIGURES_WIDTH = 70
"""Columns that everything but the bar takes: "step 12345/50000", "100 %", "loss 0.4986  86.1k tok/s  ...". """


@contextmanager
def reporter() -> Iterator[Reporter]:
    """The one that fits where stderr goes; a bar is taken down however the training ends."""
    chosen = _chosen()
    try:
        yield chosen
    finally:
        if isinstance(chosen, BarReporter):
            chosen.close()


def _chosen() -> Reporter:
    if render.wants_json() or int(os.environ.get("RANK", 0)) > 0:
        return SilentReporter()
    return BarReporter() if render.is_terminal(sys.stderr) else PlainReporter()


class SilentReporter(PlainReporter):
    def _print(self, text: str) -> None: ...


class BarReporter(PlainReporter):
    """A bar that stays at the bottom, with a line above it for each evaluation and remark."""

    def started(self, plan: Mapping[str, Any]) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        at = f", from step {plan['step']}" if plan["step"] else ""
        threads = f"{plan['threads']} thread{'s' if plan['threads'] > 1 else ''}"
        self._print(
            f"{render.place(plan['run'])}: {plan['parameters']:,} parameters on {plan['device']}, "
            f"{plan['precision']}, {threads}{at}"
        )
        console = render.screen()
        self.is_wide = console.width >= WIDE
        self.steps = f"/{plan['steps']}" if plan["steps"] else ""
        self.progress = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(bar_width=max(6, min(30, console.width - FIGURES_WIDTH))),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self.task = self.progress.add_task("", total=1.0, step=f"{plan['step']}{self.steps}", figures="")
        self.progress.start()

    def step(self, row: Mapping[str, Any], progress: float, seconds_left: float) -> None:
        figures = [f"loss {row['train_loss']:.4f}"]
        if self.is_wide:
            figures += [f"{_short(row['tokens_per_second'])} tok/s"] if "tokens_per_second" in row else []
            figures += [f"mfu {row['mfu']:.1%}"] if "mfu" in row else []
        figures += [f"eta {_duration(seconds_left)}"] if math.isfinite(seconds_left) else []
        step = f"{row['step']}{self.steps}"
        self.progress.update(self.task, completed=progress, step=step, figures="  ".join(figures))
        if "val_loss" in row:
            told = ("step", "tokens", "train_loss", "val_loss", "val_bpb", *EXPERT_FIELDS)
            self._print(format_row({key: row[key] for key in told if key in row}))

    def finished(self, result: Mapping[str, Any]) -> None:
        self.close()

    def close(self) -> None:
        if hasattr(self, "progress"):
            self.progress.stop()

    def _print(self, text: str) -> None:
        if hasattr(self, "progress") and self.progress.live.is_started:
            render.above(self.progress.console, text)
        else:
            super()._print(text)


def _short(number: float) -> str:
    """86123.4 -> 86.1k."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
