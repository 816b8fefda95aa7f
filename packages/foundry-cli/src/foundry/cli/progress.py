"""How a training run looks while it happens: a bar on a terminal, one greppable line every log_interval steps off it,
nothing with --json (metrics.jsonl in the run folder is the stream)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from foundry.cli import render
from foundry.core.training.report import PlainReporter, Reporter, format_row


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
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("eta {task.fields[eta]}"),
            TextColumn("{task.fields[row]}"),
            console=Console(stderr=True),
            transient=True,
        )
        at = f", from step {plan['step']}" if plan["step"] else ""
        self._print(
            f"{render.place(plan['run'])}: {plan['parameters']:,} parameters on {plan['device']}, "
            f"{plan['precision']}, {plan['threads']} threads{at}"
        )
        self.task = self.progress.add_task("training", total=1.0, eta="?", row="")
        self.progress.start()

    def step(self, row: Mapping[str, Any], progress: float, seconds_left: float) -> None:
        eta = f"{seconds_left:.0f} s" if seconds_left < 120 else f"{seconds_left / 60:.0f} min"
        shown = {key: row[key] for key in ("step", "train_loss", "lr", "tokens_per_second", "mfu") if key in row}
        self.progress.update(self.task, completed=progress, eta=eta, row=format_row(shown))
        if "val_loss" in row:
            self._print(format_row({key: row[key] for key in ("step", "tokens", "train_loss", "val_loss", "val_bpb")}))

    def finished(self, result: Mapping[str, Any]) -> None:
        self.close()

    def close(self) -> None:
        if hasattr(self, "progress"):
            self.progress.stop()

    def _print(self, text: str) -> None:
        if hasattr(self, "progress") and self.progress.live.is_started:
            self.progress.console.print(text, highlight=False, markup=False)
        else:
            super()._print(text)
