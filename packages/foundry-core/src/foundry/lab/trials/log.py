"""What a worker writes of a trial while it trains: its log, and the curve that the ledger keeps."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from foundry.core.printable import printable
from foundry.core.run import EXPERT_FIELDS
from foundry.lab.trials.time_limit import Watch

CURVE_POINTS = 200
"""Rows of metrics that the ledger keeps of a trial, beside those with a validation loss."""


class TrialLog:
    """The trainer's reporter: what a person would want to know of a trial that went wrong."""

    def __init__(self, watch: Watch, write: Callable[[str], None]) -> None:
        self.watch, self.write = watch, write

    def started(self, plan: Mapping[str, Any]) -> None:
        self.watch.training_begins()
        self.write(" ".join(f"{key}={value}" for key, value in plan.items()))

    def step(self, row: Mapping[str, Any], progress: float, seconds_left: float) -> None: ...

    def note(self, text: str) -> None:
        self.write(f"note: {text}")

    def sample(self, step: int, text: str) -> None: ...

    def finished(self, result: Mapping[str, Any]) -> None:
        self.write(f"finished: step={result['step']} val_loss={result['val_loss']} run={result['run']}")


def thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points of a curve: every row with a validation loss, and at most CURVE_POINTS others, evenly spaced."""
    every = max(1, -(-len(rows) // CURVE_POINTS))
    keys = ("step", "tokens", "train_loss", "val_loss", "val_bpb", "lr", "elapsed", *EXPERT_FIELDS)
    chosen = [row for place, row in enumerate(rows, 1) if "val_loss" in row or place % every == 0]
    return [{key: row[key] for key in keys if row.get(key) is not None} for row in chosen]


def log(text: str) -> None:
    """A line on standard error, with the time."""
    with suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')} {printable(text)}", file=sys.stderr, flush=True)
