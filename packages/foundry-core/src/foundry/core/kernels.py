"""The package of kernels, which core finds by the entry point `native` of the group `foundry.kernels`, where it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from foundry.core.contracts import EnvironmentFailure
from foundry.core.system import code_folder, not_trusted


@cache
def native_kernels() -> Any:
    """The module with `missing`, `suited`, `use` and `decoding`, or None. What it compiles is kept in the cache, or
    where nobody else may write."""
    library = _library()
    if library is not None:
        with suppress(EnvironmentFailure):  # no place of our own: compiled for this process alone
            library.keep_in(code_folder("kernels"), not_trusted)
    return library


@cache
def _library() -> Any:
    found = next(iter(entry_points(group="foundry.kernels", name="native")), None)
    return found and found.load()


def linear_product() -> Callable[..., Tensor]:
    """x (..., K), weight (N, K), bias (N,) or None -> x W^T + b (..., N), as all linear layers compute it."""
    library = _library()
    product: Callable[..., Tensor] = library.linear if library else F.linear
    return product


def decoding_kernels() -> AbstractContextManager[None]:
    """A context for each forward pass of a generation: kernels for few rows, where this machine has them. Their results
    agree with those of the run's own kernels to rounding."""
    library = native_kernels()
    return library.decoding() if library else nullcontext()
