"""What a run records: one row per optimizer step, in metrics.jsonl (the truth) and metrics.csv.

Losses and gradient norms stay on the device until a row is due on the screen or on disk, so that a GPU is not made to
wait for its numbers. Rows that a resume makes obsolete are cut off before it begins: no step is recorded twice.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from typing import Any

import torch
from torch import Tensor

from foundry.core.contracts import Diverged, EnvironmentFailure
from foundry.core.run import Run, read_json_lines
from foundry.core.training.checkpoint import replace_durably
from foundry.core.training.distributed import World

FIELDS = (
    "step",
    "tokens",
    "train_loss",  # nats per token, over all micro-batches and ranks
    "val_loss",
    "val_bpb",
    "lr",
    "grad_norm",  # before clipping
    "tokens_per_second",
    "mfu",
    "memory_bytes",
    "data_wait",  # share of the time spent waiting for rows
    "elapsed",  # seconds of training, evaluation and saving left out
)


class Metrics:
    """The recorder of one run. Every rank has one; rank 0 writes.

    Args:
        resumed_at: the step that training goes on from; later rows are dropped.
        reopen: take that step's row back, because its evaluation is still to be added.
    """

    def __init__(self, run: Run, world: World, *, resumed_at: int, reopen: bool) -> None:
        self.world = world
        self.pending: list[dict[str, Any]] = []
        self.jsonl, self.csv = run.metrics_file, run.metrics_file.with_suffix(".csv")
        if world.is_main:
            kept = []
            if self.jsonl.exists():
                kept = [row for row in read_json_lines(self.jsonl) if row["step"] <= resumed_at]
            if reopen and kept and kept[-1]["step"] == resumed_at:
                row = kept.pop()
                values = {key: torch.tensor(row[key], dtype=torch.float64) for key in ("train_loss", "grad_norm")}
                self.pending.append(row | values)
            replace_durably(self.jsonl, "".join(_line(row) for row in kept).encode())
            replace_durably(self.csv, (",".join(FIELDS) + "\n" + _csv(kept)).encode())

    def record(self, *, step: int, tokens: int, loss_share: Tensor, lr: float, grad_norm: Tensor) -> None:
        """Note a step. `loss_share` is this rank's part of the mean loss; the sum over ranks is the loss."""
        self.pending.append(
            {"step": step, "tokens": tokens, "train_loss": loss_share, "lr": lr, "grad_norm": grad_norm}
        )

    def sync(self) -> None:
        """Wait until the disk has every row: a checkpoint never gets ahead of its metrics."""
        if self.world.is_main:
            for path in (self.jsonl, self.csv):
                with open(path, "rb") as file:
                    os.fsync(file.fileno())

    def flush(self, **fields: Any) -> dict[str, Any] | None:
        """Bring the pending rows to the host and to disk; `fields` go into the last of them.

        Returns:
            The last row.

        Raises:
            Diverged: a loss or a gradient norm is not finite; rows up to it are written.
            EnvironmentFailure: the disk is full.
        """
        if not self.pending:
            return None
        losses = self.world.sum(torch.stack([row["train_loss"] for row in self.pending]).tolist())
        norms = torch.stack([row["grad_norm"] for row in self.pending]).tolist()
        rows, self.pending = self.pending, []
        bad = None
        for index, (row, loss, norm) in enumerate(zip(rows, losses, norms, strict=True)):
            row["train_loss"], row["grad_norm"] = loss, norm
            if not (math.isfinite(loss) and math.isfinite(norm)):
                bad = index
                break
        if bad is None:
            rows[-1].update(fields)
        rows = rows if bad is None else rows[:bad]
        self._append(rows)
        if bad is not None:
            step = rows[-1]["step"] + 1 if rows else None
            at = f"step {step}" if step else "this step"
            raise Diverged(
                f"the loss or its gradient is not finite at {at}: loss {losses[bad]}, gradient norm {norms[bad]}",
                "the checkpoints before it are kept; try a smaller training.learning_rate, a longer warmup, or a "
                "smaller training.grad_clip",
            )
        return rows[-1]

    def _append(self, rows: list[dict[str, Any]]) -> None:
        if not self.world.is_main or not rows:
            return
        try:
            for path, text in ((self.jsonl, "".join(map(_line, rows))), (self.csv, _csv(rows))):
                with open(path, "ab") as file:
                    file.write(text.encode())
        except OSError as error:
            message = f"cannot write {self.jsonl}: {error.strerror}"
            raise EnvironmentFailure(message, "free some space, then run again") from error


def _line(row: dict[str, Any]) -> str:
    ordered = {key: row[key] for key in FIELDS if row.get(key) is not None}
    return json.dumps(ordered) + "\n"


def _csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    csv.DictWriter(out, FIELDS, extrasaction="ignore", lineterminator="\n").writerows(rows)
    return out.getvalue()
