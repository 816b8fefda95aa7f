"""What a training left in the folder of its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


def rows(run: Path) -> list[dict[str, Any]]:
    """The metrics, a row for each step that told some."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def rows_without_clock(run: Path) -> list[dict[str, Any]]:
    """As `rows`, less what depends on the clock."""
    kept = ("step", "tokens", "train_loss", "val_loss", "val_bpb", "lr", "grad_norm")
    return [{key: row[key] for key in kept if key in row} for row in rows(run)]


def checkpoint(run: Path, step: int | None = None) -> Path:
    """That of a step; by default the last one."""
    return max((run / "checkpoints").glob("step-????????" if step is None else f"step-{step:08d}"))


def saved(run: Path, group: str = "model", step: int | None = None) -> dict[str, Tensor]:
    return load_file(checkpoint(run, step) / f"{group}.safetensors")


def assert_same_run(run: Path, reference: Path) -> None:
    """What was trained, to the byte; and all that was told of it."""
    ours, theirs = checkpoint(run), checkpoint(reference)
    assert ours.name == theirs.name
    for group in ("model", "optimizer", "ema", "rng"):
        file = f"{group}.safetensors"
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), group
    assert rows_without_clock(run) == rows_without_clock(reference)
    assert (run / "samples.jsonl").read_text() == (reference / "samples.jsonl").read_text()
