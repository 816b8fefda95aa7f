"""The package of kernels, which core finds by the entry point `native` of the group `foundry.kernels`, where it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from foundry.core.contracts import EnvironmentFailure
from foundry.core.system import code_folder, not_trusted


@cache
def native_kernels() -> Any:
    """The module with `missing`, `suited`, `use` and `decoding`, or None. What it compiles is kept in the cache, or
    where nobody else may write."""
    found = next(iter(entry_points(group="foundry.kernels", name="native")), None)
    if found is None:
        return None
    library = found.load()
    with suppress(EnvironmentFailure):  # no place of our own: compiled for this process alone
        library.keep_in(code_folder("kernels"), not_trusted)
    return library


def decoding_kernels() -> AbstractContextManager[None]:
    """A context for each forward pass of a generation: kernels for few rows, where this machine has them. Their results
    agree with those of the run's own kernels to rounding."""
    library = native_kernels()
    return library.decoding() if library else nullcontext()
