"""The validation loss: plain mean cross-entropy in nats per token, whatever the run trains on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foundry.core.contracts import Batch, FixedRows, Tokenizer
from foundry.core.model import GPT
from foundry.core.training.device import Device
from foundry.core.training.distributed import World

# Tokens per forward pass: large enough to fill two cores or a GPU, small enough for any of them at V = 50k.
TOKENS_PER_BATCH = 4096


class Evaluation(NamedTuple):
    val_loss: float  # nats per token
    val_bpb: float  # bits per byte of text
    tokens: int


def to_device(batch: Batch, device: torch.device) -> Batch:
    """numpy arrays -> tensors on `device`, None staying None."""
    return Batch(*(None if array is None else _tensor(array, device) for array in batch))


@torch.inference_mode()
def evaluate(
    model: GPT,
    rows: FixedRows,
    tokenizer: Tokenizer,
    device: Device,
    world: World,
    *,
    max_tokens: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
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
    return Evaluation(total / n_tokens, total / math.log(2) / max(1.0, all_bytes), int(n_tokens))


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
