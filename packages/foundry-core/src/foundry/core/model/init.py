"""Initial weights from streams named by (seed, parameter path).

Each parameter has a random stream of its own, so two variants start with the same values in everything they share,
and neither the order of construction nor the device changes a weight.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from foundry.core.blame import place_of
from foundry.core.contracts import PluginError
from foundry.core.contracts.parameters import owners

if TYPE_CHECKING:
    from foundry.core.model.scale import Scale


@contextmanager
def uninitialised() -> Iterator[None]:
    """Modules made in here do not fill their own weights with random numbers first, which for a hundred million takes
    a second: `initialize` or a checkpoint fills them."""
    with _NoInit():
        yield


class _NoInit(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@torch.no_grad()
def initialize(model: nn.Module, seed: int) -> None:
    """Fill every parameter and every unsaved buffer of `model`.

    The nearest module on the path to a parameter that defines `init_parameter(name, tensor, generator)` and returns
    True decides its distribution; `name` is relative to that module, and the model is the last of them. A module with
    `init_buffers()` recomputes its tables, which matters after creation on the meta device. Where the model has a scale
    rule, parameters are filled as in the rule's base, and multiplied by its factor.

    Raises:
        PluginError: a plugin's module has a parameter that no module on its path knows how to fill.
        RuntimeError: a module of Foundry's own has.
    """
    scale: Scale | None = getattr(model, "scale", None)
    filled_by = (scale and scale.base_model) or model
    for path, parameter in model.named_parameters():
        values = torch.empty(parameter.shape, dtype=torch.float32)
        if not _fill(filled_by, path, values, _stream(seed, path)):
            raise _unfilled(model, path, parameter)
        if scale is not None and not scale.is_base:
            values *= scale.init_factor(path)
        parameter.copy_(values)
    init_buffers(model)


def init_buffers(model: nn.Module) -> None:
    """Recompute the tables that no checkpoint holds."""
    for module in model.modules():
        recompute: Callable[[], None] | None = getattr(module, "init_buffers", None)
        if recompute is not None:
            recompute()


def normal_(tensor: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Fill in place from a normal distribution with mean 0."""
    return tensor.normal_(0.0, std, generator=generator)


def _stream(seed: int, path: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _unfilled(model: nn.Module, path: str, parameter: Tensor) -> Exception:
    """What is expected of the nearest module on the path that somebody wrote for Foundry."""
    shape = tuple(parameter.shape)
    for owner, name in owners(model, path):
        if place := place_of(type(owner), attribute=name.partition(".")[0]):
            break
    if not place or not place.distribution:
        return RuntimeError(f"no module initialises {path} {shape}; define init_parameter")
    return PluginError(
        f"{place}: nothing initialises the parameter {name} {shape} of {type(owner).__name__}",
        f"say there what it is, roles = {{{name!r}: 'gain'}} or 'bias' or 'matrix', and it gets such first values; "
        f"or define init_parameter(self, name, tensor, generator), which fills it and returns True\n{place.hint}",
    )


def _fill(model: nn.Module, path: str, values: Tensor, generator: torch.Generator) -> bool:
    rules = ((getattr(owner, "init_parameter", None), name) for owner, name in owners(model, path))
    return any(rule(name, values, generator) for rule, name in rules if rule is not None)
