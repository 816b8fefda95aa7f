"""Whether a training fits into the memory that there is: asked before any of it is made.

Activations are not counted: a micro-batch that does not fit is halved, or refused, in `Trainer.forward_backward`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from foundry.core.analyze import training_bytes
from foundry.core.system.machine import out_of, require_memory
from foundry.core.training.device import Device

if TYPE_CHECKING:
    from foundry.core.config import Experiment

WAY_OUT = "train fewer parameters: `foundry analyze` shows which part has how many"


def require_training_memory(experiment: Experiment, vocab_size: int, device: Device, ranks: int = 1) -> None:
    """Raises EnvironmentFailure for what cannot be trained here, however small its micro-batch.

    Args:
        ranks: how many of them share this machine's memory.
    """
    needed = training_bytes(experiment, vocab_size)
    what = f"{experiment.name}: to train it with {experiment.training.optimizer.type}"
    if device.type != "cuda":
        return require_memory(ranks * needed, what if ranks == 1 else f"{what} on {ranks} ranks", WAY_OUT)
    there = torch.cuda.get_device_properties(device.torch).total_memory
    if needed > there:
        raise out_of(there, needed, f"{what} on one GPU", WAY_OUT)
