"""The package of kernels, which core finds by the entry point `native` of the group `foundry.kernels`, where it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from foundry.core.contracts import EnvironmentFailure
from foundry.core.system import code_folder, not_trusted


@cache
def native_kernels() -> Any:
    """`foundry.kernels.native`, or None. What it compiles is kept in the cache, or where nobody else may write."""
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


def plan_decoding(model: nn.Module) -> Any | None:
    """What computes instead of torch's operators while `model`, as it is now, writes a text: a `Plan` of
    `foundry.kernels.decoding`, or None where this machine has nothing faster. Its results agree with the model's own to
    rounding."""
    library = native_kernels()
    return library.plan_decoding(model) if library else None
