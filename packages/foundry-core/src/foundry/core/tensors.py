"""Tensors on disk, without a second copy of them in memory."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from foundry.core.system import sync_file


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
