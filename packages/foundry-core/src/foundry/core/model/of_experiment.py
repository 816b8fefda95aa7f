"""The model that an experiment describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from foundry.core.model.gpt import GPT

if TYPE_CHECKING:
    from foundry.core.config import Experiment


def model_of(experiment: Experiment, vocab_size: int, device: torch.device | str = "cpu") -> GPT:
    """The model of an experiment and a vocabulary, its weights undefined; on the device "meta" without memory."""
    with torch.device(device):
        return GPT(experiment.model_spec(vocab_size), experiment.registry.build)
