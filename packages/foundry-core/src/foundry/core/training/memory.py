"""Running out of memory, which torch says in another way on each device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from foundry.core.contracts import EnvironmentFailure


def is_out_of_memory(error: BaseException) -> bool:
    """Only CUDA's allocator has an error class of its own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("DefaultCPUAllocator", "out of memory")
    )


@contextmanager
def within_memory() -> Iterator[None]:
    """Turns an out-of-memory error into an EnvironmentFailure."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise EnvironmentFailure(
            f"out of memory: {str(error).strip().splitlines()[0] if str(error).strip() else 'on the host'}",
            "`foundry analyze` shows what takes how much",
        ) from error
