"""The validation loss: plain mean cross-entropy in nats per token, whatever the run trains on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foundry.core.contracts import Batch, FixedRows, Tokenizer
from foundry.core.limits import within_limits
from foundry.core.loading import choose_checkpoint, restored
from foundry.core.model import GPT
from foundry.core.run import Run
from foundry.core.training.claim import refuse_another
from foundry.core.training.device import Device, resolve
from foundry.core.training.distributed import World
from foundry.core.training.open_rows import open_rows
from foundry.core.training.reporter import PlainReporter, Reporter

if TYPE_CHECKING:
    from foundry.core.config import Experiment

# Tokens per forward pass: large enough to fill two cores or a GPU, small enough for any of them at V = 50k.
TOKENS_PER_BATCH = 4096


class ValidationLoss(NamedTuple):
    val_loss: float  # nats per token
    val_bpb: float  # bits per byte of text
    tokens: int


def to_device(batch: Batch, device: torch.device) -> Batch:
    """numpy arrays -> tensors on `device`, None staying None."""
    return Batch(*(None if array is None else _tensor(array, device) for array in batch))


@torch.inference_mode()
def validation_loss(
    model: GPT,
    rows: FixedRows,
    tokenizer: Tokenizer,
    device: Device,
    world: World,
    *,
    max_tokens: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> ValidationLoss | None:
    """Score the validation rows, or, with `max_tokens`, an evenly spaced choice of them that is always the same and has
    about so many tokens.

    Returns:
        The mean over all supervised tokens, or None if `stop()` became true on the way.
    """
    block_size = model.dims.block_size
    chosen = np.arange(len(rows))
    if max_tokens is not None and max_tokens < rows.tokens:
        n_rows = max(1, round(max_tokens * len(rows) / rows.tokens))
        chosen = np.unique(np.linspace(0, len(rows) - 1, n_rows).round().astype(np.int64))
    per_batch = max(1, TOKENS_PER_BATCH // block_size)
    was_training = model.training
    model.eval()
    losses, n_tokens, n_bytes = [], 0.0, 0
    for start in range(world.rank * per_batch, len(chosen), world.size * per_batch):
        if world.size == 1 and stop():
            model.train(was_training)
            return None
        part = chosen[start : start + per_batch]
        batch = rows.take(part)
        losses.append(_loss_sum(model, to_device(batch, device.torch), device))
        counts = np.ones(batch.targets.shape, bool) if batch.loss_weight is None else batch.loss_weight > 0
        n_tokens += int(counts.sum())
        for first, targets, counted in zip(batch.tokens[:, :1], batch.targets, counts, strict=True):
            # Behind the token before it: a tokenizer's own blank before a text is no byte of it.
            n_bytes += tokenizer.bytes_of(np.concatenate([first, targets[counted]])) - tokenizer.bytes_of(first)
    model.train(was_training)
    total = torch.stack(losses).sum().item() if losses else 0.0
    total, n_tokens, all_bytes = world.sum([total, n_tokens, float(n_bytes)])
    return ValidationLoss(total / n_tokens, total / math.log(2) / max(1.0, all_bytes), int(n_tokens))


def evaluate_run(
    path: str | Path, experiment: Experiment | None = None, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """The validation loss of a run's last checkpoint over the whole validation text.

    Args:
        path: the run folder.
        experiment: whose run it must be, if that matters.

    Raises:
        InvalidData: the run has no checkpoint, is another experiment's, or its text has changed.
    """
    reporter = reporter or PlainReporter()
    run = Run(Path(path))
    if experiment is not None:
        refuse_another(run, experiment)
    saved = choose_checkpoint(run, "last", reporter.note)
    config, tokenizer, model = restored(run, saved)
    device = resolve(config.training, saved=Device.saved_in(run.config(), source=str(run.config_file)))
    rows = open_rows(config, run, reporter.note)
    if saved.state["loader"]:
        rows.resume(saved.state["loader"])
    else:  # nothing was trained here that other text could spoil
        reporter.note(f"{run.path} holds pretrained weights; they are scored on the text of its config.json")
    with within_limits():
        scored = validation_loss(model.to(device.torch), rows.validation, tokenizer, device, World())
    assert scored is not None
    return {
        "run": str(run.path),
        "step": saved.state["step"],
        "val_loss": scored.val_loss,
        "val_bpb": scored.val_bpb,
        "tokens": scored.tokens,
    }


def _loss_sum(model: GPT, batch: Batch, device: Device) -> Tensor:
    """Sum of token losses, 0-D float64."""
    with device.autocast():
        logits, _ = model(batch.tokens, positions=batch.positions, segments=batch.segments)
    losses = F.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten(), reduction="none")
    if batch.loss_weight is not None:
        losses = losses * (batch.loss_weight.flatten() > 0)
    return losses.double().sum()


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
