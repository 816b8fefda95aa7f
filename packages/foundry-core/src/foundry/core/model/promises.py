"""What the parts of a model promise to answer, and a look at whether they do.

    with kept_promises(model, registry):
        model(ids)

Inside, whatever a plugin's part answers is looked at: what is no answer of its slot is told there, with the line where
the part is written, and not layers later as a fault of whoever had to work with it. Foundry's own parts have tests for
that. It costs what Python costs, so it is done where a model is counted on the meta device, once, and where a training
has failed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from foundry.core.blame import CodeLine, place_of
from foundry.core.contracts import Context, PluginError, Variant

if TYPE_CHECKING:
    from foundry.core.registry import Registry

Judge = Callable[[Any, tuple[Any, ...]], bool]
"""Whether an answer is one, given the arguments that it answers."""


class Promise(NamedTuple):
    """What a method of a part answers."""

    method: str
    words: str
    holds: Judge

    def broken(self, slot: str, answer: Any, given: tuple[Any, ...]) -> str:
        """What is wrong with an answer to these arguments; nothing where it is one."""
        if self.holds(answer, given):
            return ""
        return f"answers {_what(answer)}; what {slot} promises is {self.words}"


def _is_like(answer: Any, given: Any) -> bool:
    """Of the same shape, and of the same kind of numbers: autocast may change their width."""
    if not isinstance(answer, Tensor) or answer.shape != given.shape:
        return False
    autocast = torch.is_autocast_enabled(answer.device.type if answer.device.type != "meta" else "cpu")
    return answer.is_floating_point() if autocast else answer.dtype == given.dtype


def _first(answer: Any, args: tuple[Any, ...]) -> bool:
    return _is_like(answer, args[0])


def _last(answer: Any, args: tuple[Any, ...]) -> bool:
    return _is_like(answer, args[-1])


def _with_aux(answer: Any, args: tuple[Any, ...]) -> bool:
    return _is_tuple(answer, 2) and _is_like(answer[0], args[0]) and _is_aux(answer[1], rows=len(args[0]))


def _is_tuple(answer: Any, length: int) -> bool:
    return isinstance(answer, tuple) and len(answer) == length


def _is_aux(answer: Any, rows: int) -> bool:
    if not isinstance(answer, Mapping) or not all(isinstance(each, Tensor) for each in answer.values()):
        return False
    figures = [each for name, each in answer.items() if not name.endswith(("_count", "_load"))]
    return all(each.shape in ((), (rows,)) for each in figures)


def _loss(answer: Any, args: tuple[Any, ...]) -> bool:
    return _summed(answer, rows=len(args[0]))


def _summed(answer: Any, rows: int) -> bool:
    return (
        _is_tuple(answer, 3)
        and all(isinstance(each, Tensor) and each.ndim == 0 for each in answer[:2])
        and _is_aux(answer[2], rows)
    )


def _cache(answer: Any, args: tuple[Any, ...]) -> bool:
    return isinstance(getattr(answer, "length", None), int) and hasattr(answer, "tensors")


AUX = "a dict of tensors by name, of which losses and figures are one number for each row, (B,), or 0-D"

PROMISES: dict[str, tuple[Promise, ...]] = {
    "attention": (
        Promise("forward", f"(y, aux): y like x, and {AUX}", _with_aux),
        Promise("init_cache", "a Cache, with its length and its tensors", _cache),
    ),
    "ffn": (Promise("forward", f"(y, aux): y like x, and {AUX}", _with_aux),),
    "norm": (Promise("forward", "a tensor like its input", _first),),
    "activation": (Promise("forward", "a tensor like its input", _last),),
    "position": (
        Promise("embed", "a tensor like x", _first),
        Promise(
            "rotate",
            "(q, k), each as it was given",
            lambda answer, args: _is_tuple(answer, 2) and all(map(_is_like, answer, args)),
        ),
        Promise(
            "bias",
            "what is added to the scores, (B, H, T, S)",
            lambda answer, args: (
                isinstance(answer, Tensor) and answer.shape[-2:] == (args[0].shape[-1], args[1].shape[-1])
            ),
        ),
    ),
    "residual": (
        Promise("enter", "a tensor like the stream", _first),
        Promise("leave", "a tensor like the stream", _first),
    ),
    "canon": (
        Promise(
            "enter",
            "(x, ctx): what the sublayer reads, like x, and its Context",
            lambda answer, args: (
                _is_tuple(answer, 2) and _is_like(answer[0], args[1]) and isinstance(answer[1], Context)
            ),
        ),
        Promise("init_cache", "a Cache, with its length and its tensors", _cache),
    ),
    "value_embedding": (
        Promise(
            "forward",
            "a tensor (B, T, size)",
            lambda answer, args: isinstance(answer, Tensor) and answer.ndim == 3 and answer.shape[:2] == args[1].shape,
        ),
    ),
    "skip": (Promise("forward", "a tensor like the stream", _first),),
    "objective": (
        Promise(
            "forward",
            f"(sum, count, aux): two tensors without axes, and {AUX}",
            lambda answer, args: _summed(answer, rows=len(args[1].tokens)),
        ),
    ),
    "loss": (Promise("forward", f"(sum, count, aux): two tensors without axes, and {AUX}", _loss),),
}
"""Slot -> what its variants promise, see `foundry.core.contracts`."""


Look = Callable[[nn.Module, Variant, Promise, tuple[Any, ...], Any], None]
"""Told of a part, its variant, what it promises, what it was given, and what it answered."""


def kept_promises(root: nn.Module, registry: Registry) -> AbstractContextManager[None]:
    """Look at what the plugins' parts of `root` answer while inside.

    Raises:
        PluginError: an answer is none of its slot; or what is called of a part is missing, or takes other arguments.
    """
    return watched(root, registry, _judge)


@contextmanager
def watched(root: nn.Module, registry: Registry, look: Look) -> Iterator[None]:
    """Have `look` see every answer of the plugins' parts of `root` while inside."""
    with ExitStack() as stack:
        for part, variant in parts_of_plugins(root, registry):
            for promise in PROMISES.get(variant.slot, ()):
                stack.enter_context(_watched(part, variant, promise, look))
        yield


def parts_of_plugins(root: nn.Module, registry: Registry) -> list[tuple[nn.Module, Variant]]:
    """The modules in a model that a plugin's variant has built."""
    made = ((module, registry.origin(module)) for module in root.modules())
    return [(module, variant) for module, variant in made if variant is not None and registry.is_foreign(variant)]


def _judge(part: nn.Module, variant: Variant, promise: Promise, given: tuple[Any, ...], answer: Any) -> None:
    if fault := promise.broken(variant.slot, answer, given):
        raise _fault(part, promise, fault)


@contextmanager
def _watched(part: nn.Module, variant: Variant, promise: Promise, look: Look) -> Iterator[None]:
    """The method answers as always, and `look` sees it. It is the instance's own for as long, which torch's `__call__`
    uses like the class's."""
    real = getattr(part, promise.method, None)
    if getattr(type(part), promise.method, None) is nn.Module.forward:  # which only says that it is missing
        real = None

    def answer(*args: Any, **kwargs: Any) -> Any:
        if real is None:
            raise _fault(part, promise, f"is missing: what {variant.slot} promises is {promise.words}")
        try:
            given = inspect.signature(real).bind(*args, **kwargs).args
        except TypeError as error:
            raise _fault(part, promise, f"cannot be called as {variant.slot} is: {error}") from None
        answered = real(*args, **kwargs)
        look(part, variant, promise, given, answered)
        return answered

    before = vars(part).get(promise.method)
    object.__setattr__(part, promise.method, answer)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(part, promise.method)
        else:
            object.__setattr__(part, promise.method, before)


def place_of_answer(part: nn.Module, promise: Promise) -> CodeLine | None:
    """Where the method that answers is written, or else its class."""
    return place_of(getattr(type(part), promise.method, None)) or place_of(type(part))


def _fault(part: nn.Module, promise: Promise, words: str) -> PluginError:
    place, name = place_of_answer(part, promise), f"{type(part).__name__}.{promise.method}"
    if place is None:
        return PluginError(f"{name} {words}")
    return PluginError(f"{place}: {name} {words}", place.hint)


def _what(answer: Any) -> str:
    """An answer in words: `None`, `a tensor (2, 16) of float16`, `a tuple of 3`."""
    if answer is None:
        return "None (is there no return?)"
    if isinstance(answer, Tensor):
        return f"a tensor {tuple(answer.shape)} of {str(answer.dtype).removeprefix('torch.')} on {answer.device}"
    if isinstance(answer, tuple | list):
        return f"a {type(answer).__name__} of {', '.join(map(_what, answer))}"
    return f"a {type(answer).__name__}"
