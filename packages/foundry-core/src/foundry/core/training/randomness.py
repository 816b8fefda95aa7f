"""Where a rank's dropout generators stand, so that a step can be done again and a run resumed with the same masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foundry.core.training.device import Device


def rng_streams(device: Device, rank: int) -> dict[str, Tensor]:
    """The state of this rank's generators, by name: uint8 tensors on CPU, 5 KB in all."""
    streams = {f"cpu.{rank}": torch.get_rng_state()}
    if device.type == "cuda":
        streams[f"cuda.{rank}"] = torch.cuda.get_rng_state()
    return streams


def restore_rng_streams(streams: Mapping[str, Tensor], device: Device, rank: int) -> None:
    """Set this rank's generators to `streams`; what they say nothing of stays as it is."""
    if f"cpu.{rank}" in streams:
        torch.set_rng_state(streams[f"cpu.{rank}"])
    if device.type == "cuda" and f"cuda.{rank}" in streams:
        torch.cuda.set_rng_state(streams[f"cuda.{rank}"])
