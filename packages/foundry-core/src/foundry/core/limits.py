"""What a machine cannot do, as torch says it: hold that much, or compile. Told apart by names, so that nothing here
imports torch: where it was not imported it did not fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from foundry.core.contracts.errors import EnvironmentFailure, text_of


def is_out_of_memory(error: BaseException) -> bool:
    """Only CUDA's allocator has an error class of its own."""
    if isinstance(error, MemoryError) or _is_a("OutOfMemoryError", error):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in text_of(error) for sign in ("DefaultCPUAllocator", "out of memory")
    )


def lacking(error: BaseException) -> EnvironmentFailure | None:
    """What the machine lacks, if that is what the error says."""
    text = (text_of(error).strip() or "on the host").splitlines()[0]
    if is_out_of_memory(error):
        return EnvironmentFailure(f"out of memory: {text}", "`foundry analyze` shows what takes how much")
    if _is_a("BackendCompilerFailed", error):
        return EnvironmentFailure(
            f"torch.compile fails here: {text}", "install a C++ compiler, or use --set training.compile=false"
        )
    return None


@contextmanager
def within_limits() -> Iterator[None]:
    """Turns what the machine lacks into an EnvironmentFailure; every other error passes."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if failure := lacking(error):
            raise failure from error
        raise


def _is_a(name: str, error: BaseException) -> bool:
    return any(base.__name__ == name for base in type(error).__mro__)
