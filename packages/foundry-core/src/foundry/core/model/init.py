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
from foundry.core.tensors import copy_into

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


class _Uncompiled(TorchFunctionMode):
    """In here `torch.empty_like` of a tensor on the meta device does not import half of torch's compiler, which takes a
    second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty_like and set(kwargs) == {"device"} and type(args[0]) in (Tensor, nn.Parameter):
            (like,) = args
            return torch.empty_strided(like.size(), like.stride(), dtype=like.dtype, **kwargs)
        return func(*args, **kwargs)


def materialize(model: nn.Module, device: torch.device | str) -> None:
    """Give a model that is on the meta device its memory. Its tables are filled, its parameters are not; what is one
    parameter in several places stays one."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            places.setdefault(parameter, []).append((module, name))
    with _Uncompiled():
        model.to_empty(device=device)
    for (first, name), *others in places.values():
        for module, other in others:
            setattr(module, other, getattr(first, name))
    with torch.no_grad():
        for buffer in model.buffers():  # what is never filled is then seen, see `require_filled`
            buffer.fill_(float("nan") if buffer.is_floating_point() else 0)
    init_buffers(model)


def require_filled(model: nn.Module) -> None:
    """Raises:
    PluginError: a plugin's module has a buffer of numbers that was not filled.
    RuntimeError: a module of Foundry's own has.
    """
    for path, buffer in model.named_buffers():
        if buffer.is_floating_point() and buffer.isnan().any():
            way_out = "define init_buffers(self), which fills it: a model is made without memory first"
            raise _unfilled(model, path, f"the buffer {{}} {tuple(buffer.shape)}", way_out)


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
            way_out = (
                "say there what it is, roles = {{{!r}: 'gain'}} or 'bias' or 'matrix', and it gets such first values; "
                "or define init_parameter(self, name, tensor, generator), which fills it and returns True"
            )
            raise _unfilled(model, path, f"the parameter {{}} {tuple(parameter.shape)}", way_out)
        if scale is not None and not scale.is_base:
            values *= scale.init_factor(path)
        copy_into(parameter, values)
    init_buffers(model)


def init_buffers(model: nn.Module) -> None:
    """Recompute the tables that no checkpoint holds, and what saved ones begin with."""
    for module in model.modules():
        recompute: Callable[[], None] | None = getattr(module, "init_buffers", None)
        recompute = recompute or getattr(module, "reset_running_stats", None)  # of torch's own batch norms
        if recompute is not None:
            recompute()


def normal_(tensor: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Fill in place from a normal distribution with mean 0."""
    return tensor.normal_(0.0, std, generator=generator)


def _stream(seed: int, path: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _unfilled(model: nn.Module, path: str, what: str, way_out: str) -> Exception:
    """What is expected of the nearest module on the path that somebody wrote for Foundry.

    Args:
        what, way_out: in words, with {} where the name stands that the module has for it.
    """
    for owner, name in owners(model, path):
        if place := place_of(type(owner), attribute=name.partition(".")[0]):
            break
    if not place or not place.distribution:
        return RuntimeError(f"nothing initialises {what.format(path)}; {way_out.format(path)}")
    return PluginError(
        f"{place}: nothing initialises {what.format(name)} of {type(owner).__name__}",
        f"{way_out.format(name)}\n{place.hint}",
    )


def _fill(model: nn.Module, path: str, values: Tensor, generator: torch.Generator) -> bool:
    rules = ((getattr(owner, "init_parameter", None), name) for owner, name in owners(model, path))
    return any(rule(name, values, generator) for rule, name in rules if rule is not None)
