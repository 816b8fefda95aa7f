"""What a machine cannot do, as torch says it: hold that much, or compile."""

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
def within_limits() -> Iterator[None]:
    """Turns what the machine lacks into an EnvironmentFailure; every other error passes."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = (str(error).strip() or "on the host").splitlines()[0]
        if is_out_of_memory(error):
            raise EnvironmentFailure(f"out of memory: {said}", "`foundry analyze` shows what takes how much") from error
        if _is_compiler_failure(error):
            raise EnvironmentFailure(
                f"torch.compile fails here: {said}", "install a C++ compiler, or use --set training.compile=false"
            ) from error
        raise


def _is_compiler_failure(error: BaseException) -> bool:
    """By name: importing torch._dynamo takes a second, and where it was not used it did not fail."""
    return any(base.__name__ == "BackendCompilerFailed" for base in type(error).__mro__)
