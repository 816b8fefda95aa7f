"""Tensors that are whole: of a model whose parts several ranks hold, and on disk, without a second copy in memory."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from foundry.core.system import sync_file


def saved_parts(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a model: each parameter once, tied or not, and the buffers that persist; of each what
    this rank has of it."""
    persistent = model.state_dict().keys()
    return dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in persistent}


def whole(part: Tensor) -> Tensor:
    """All of a tensor of which this rank has a part, as FSDP2 cuts them; one that is not cut as it is. Every rank
    must ask."""
    return part.full_tensor() if _is_cut(part) else part  # type: ignore[attr-defined]


def part_of(values: Tensor, like: Tensor) -> Tensor:
    """What this rank is to have of a whole tensor, cut and placed as `like` is."""
    if not _is_cut(like):
        return values
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(values.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def copy_into(part: Tensor, values: Tensor) -> None:
    """Copy a whole tensor into one of which this rank may have a part."""
    part.copy_(part_of(values, like=part))


def _is_cut(tensor: Tensor) -> bool:
    """Whether it is a DTensor, whose import takes a while and is nothing that one rank needs."""
    return hasattr(tensor, "full_tensor")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file and wait until the disk has it. Tensors that are on the CPU and contiguous are written
    from where they lie.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(dense, path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:  # which has the system's number in its text alone
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error
    with open(path, "rb") as file:
        sync_file(file)
