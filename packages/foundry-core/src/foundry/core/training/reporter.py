"""How a run tells its story while it happens. The command line draws it; a library user gets plain lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from foundry.core.printable import printable


class Reporter(Protocol):
    """What the trainer calls on rank 0. Nothing it does may change the training."""

    def started(self, plan: Mapping[str, Any]) -> None:
        """`plan`: run, name, parameters, device, precision, threads, steps, step (resumed from), rows, ..."""

    def step(self, row: Mapping[str, Any], progress: float, seconds_left: float) -> None:
        """A row of metrics (see `foundry.core.training.metrics`), every log_interval steps."""

    def note(self, text: str) -> None:
        """Something that a person should know: a checkpoint refused, a smaller micro-batch."""

    def sample(self, step: int, text: str) -> None: ...
    def finished(self, result: Mapping[str, Any]) -> None: ...


class PlainReporter:
    """One greppable line at a time on stderr."""

    def started(self, plan: Mapping[str, Any]) -> None:
        self._print(" ".join(f"{key}={value}" for key, value in plan.items()))

    def step(self, row: Mapping[str, Any], progress: float, seconds_left: float) -> None:
        self._print(f"{format_row(row)} done={progress:.0%} eta={seconds_left:.0f}s")

    def note(self, text: str) -> None:
        self._print(f"note: {text}")

    def sample(self, step: int, text: str) -> None:
        self._print(f"sample at step {step}:\n{text}\n")

    def finished(self, result: Mapping[str, Any]) -> None:
        self._print(f"finished: step={result['step']} val_loss={result['val_loss']:.4f} run={result['run']}")

    def _print(self, text: str) -> None:
        with suppress(OSError):  # the reader is gone, or the log's disk is full: the training continues
            print(printable(text), file=sys.stderr, flush=True)


def format_row(row: Mapping[str, Any]) -> str:
    """step=100 train_loss=2.3456 val_loss=... : the keys of metrics.jsonl, rounded for the eye."""
    formats = {
        "step": "d",
        "tokens": "d",
        "positions": "d",
        "train_loss": ".4f",
        "val_loss": ".4f",
        "val_bpb": ".4f",
        "lr": ".2e",
        "grad_norm": ".3f",
        "tokens_per_second": ".0f",
        "mfu": ".1%",
        "memory_bytes": "d",
        "micro_batch": "d",
        "data_wait": ".1%",
        "elapsed": ".1f",
        "expert_usage": ".1%",
        "expert_unevenness": ".3f",
        "expert_largest_load": ".2f",
    }
    formats |= {key: ".4g" for key in row if key not in formats}
    return " ".join(f"{key}={row[key]:{spec}}" for key, spec in formats.items() if row.get(key) is not None)
