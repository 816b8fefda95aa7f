"""What a run records: one row per optimizer step, in metrics.jsonl (the truth) and metrics.csv.

Beside FIELDS, a row holds the auxiliary losses and other figures that the layers and the loss report by name
(`contracts.Aux`: moe_balance_loss, z_loss), summed over layers, and as `train_loss` means over the tokens of the step;
and, where it was logged, how the experts of routed layers were used since then (`foundry.core.training.expert_load`).

Losses and gradient norms stay on the device until a row is due on the screen or on disk, so that a GPU is not made to
wait for its numbers. Rows that a resume makes obsolete are cut off before it begins: no step is recorded twice.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from foundry.core.run import Run
from foundry.core.system import replace_durably, sync_file, writing
from foundry.core.training import divergence
from foundry.core.training.distributed import World

FIELDS = (
    "step",
    "tokens",  # that were trained on: targets with a loss weight
    "positions",  # that were computed, padding included
    "train_loss",  # nats per token, over all micro-batches and ranks
    "val_loss",
    "val_bpb",
    "lr",
    "grad_norm",  # before clipping
    "tokens_per_second",
    "mfu",  # of all positions
    "memory_bytes",
    "micro_batch",  # rows in a forward pass of a rank: at the first step, and where it is halved for want of memory
    "data_wait",  # share of the time spent waiting for rows
    "elapsed",  # seconds of training, evaluation and saving left out
)
"""Of every run."""


class Metrics:
    """The recorder of one run. Every rank has one; rank 0 writes.

    Args:
        resumed_at: the step that training goes on from; later rows are dropped.
        micro_batch: at that step; 0 at the beginning.
        recount: the tokens up to a step, for rows of a version in which `tokens` were positions.
    """

    def __init__(
        self, run: Run, world: World, *, resumed_at: int, micro_batch: int, recount: Callable[[int], int]
    ) -> None:
        self.run, self.world, self.micro_batch = run, world, micro_batch
        self.pending: list[dict[str, Any]] = []
        self.jsonl, self.csv = run.metrics_file, run.metrics_file.with_suffix(".csv")
        if world.is_main:
            rows = [row for row in run.metrics() if row["step"] <= resumed_at]
            for row in rows:
                if "positions" not in row:
                    row["positions"], row["tokens"] = row.get("tokens"), recount(row["step"])
            self._rewrite(rows)

    def record(
        self,
        *,
        step: int,
        tokens: int,
        positions: int,
        loss_share: Tensor,
        lr: float,
        grad_norm: Tensor,
        figure_shares: Mapping[str, Tensor],
        micro_batch: int,
    ) -> None:
        """Note a step. `loss_share` is this rank's part of the mean loss, whose sum over ranks is the loss; so are
        `figure_shares` of what else is reported, the same names on every rank."""
        row = {
            "step": step,
            "tokens": tokens,
            "positions": positions,
            "train_loss": loss_share,
            "lr": lr,
            "grad_norm": grad_norm,
        }
        if micro_batch != self.micro_batch:
            row["micro_batch"] = self.micro_batch = micro_batch
        self.pending.append({**row, **{name: each for name, each in figure_shares.items() if name not in FIELDS}})

    def sync(self) -> None:
        """Wait until the disk has every row: a checkpoint never gets ahead of its metrics."""
        if self.world.is_main:
            for path in (self.jsonl, self.csv):
                with writing(path), open(path, "rb") as file:
                    sync_file(file)

    def settle(self) -> None:
        """Bring the pending losses and gradient norms to the host.

        Raises:
            Diverged: one of them is not finite; the rows before it are written.
        """
        waiting = [row for row in self.pending if isinstance(row["train_loss"], Tensor)]
        if not waiting:
            return
        norms = torch.stack([row.pop("grad_norm") for row in waiting]).tolist()
        shares = [(row, key) for row in waiting for key, value in row.items() if isinstance(value, Tensor)]
        sums = self.world.sum(torch.stack([row[key] for row, key in shares]).tolist())
        for (row, key), value in zip(shares, sums, strict=True):
            row[key] = value if key in FIELDS or math.isfinite(value) else None  # JSON has no other numbers
        for row, norm in zip(waiting, norms, strict=True):
            row["grad_norm"], loss = norm, row["train_loss"]
            if diverged := divergence.of_step(row["step"], loss, norm):
                self._append([good for good in self.pending if good["step"] < row["step"]])
                raise diverged

    def flush(self, **fields: Any) -> dict[str, Any] | None:
        """Bring the pending rows to disk; `fields` go into the last of them, or, if none is pending, into the last on
        disk: a resumed run may begin with the evaluation that a signal cut short.

        Returns:
            The last row, on rank 0.

        Raises:
            Diverged: a loss, a gradient norm or the validation loss is not finite; the rows before it are written.
            EnvironmentFailure: the disk is full.
        """
        self.settle()
        if diverged := divergence.of_validation(fields.get("val_loss", 0.0)):
            self._append(self.pending)
            raise diverged
        if not self.pending:
            return self._amend({key: value for key, value in fields.items() if key in ("val_loss", "val_bpb")})
        rows, self.pending = self.pending, []
        rows[-1].update(fields)
        self._append(rows)
        return rows[-1]

    def _amend(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        if not fields or not self.world.is_main:
            return None
        rows = list(self.run.metrics())
        if rows:
            rows[-1].update(fields)
            self._rewrite(rows)
        return rows[-1] if rows else None

    def _append(self, rows: list[dict[str, Any]]) -> None:
        if not self.world.is_main or not rows:
            return
        if any(key not in self.columns for row in rows for key in row):
            return self._rewrite([*self.run.metrics(), *rows])
        for path, text in ((self.jsonl, "".join(map(_line, rows))), (self.csv, _csv(rows, self.columns))):
            with writing(path), open(path, "ab") as file:
                file.write(text.encode())

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self.columns = [*dict.fromkeys([*FIELDS, *(key for row in rows for key in row)])]
        table = ",".join(self.columns) + "\n" + _csv(rows, self.columns)
        for path, text in ((self.jsonl, "".join(map(_line, rows))), (self.csv, table)):
            with writing(path):
                replace_durably(path, text.encode())


def _line(row: dict[str, Any]) -> str:
    ordered = {key: row[key] for key in dict.fromkeys([*FIELDS, *row]) if row.get(key) is not None}
    return json.dumps(ordered) + "\n"


def _csv(rows: list[dict[str, Any]], columns: list[str]) -> str:
    out = io.StringIO()
    csv.DictWriter(out, columns, lineterminator="\n").writerows(rows)
    return out.getvalue()
