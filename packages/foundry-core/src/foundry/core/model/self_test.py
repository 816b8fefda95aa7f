"""What a model must do whatever its parts are, tried on the model itself, where nobody would notice that it does not:

    check_causality    a token is told by what is before it in its row: a look ahead makes every loss too good
    check_checkpoint   what a checkpoint holds is the model: else it is another one when it is loaded
    check_decoding     from its cache, token by token, it says what it says of the whole text: else it writes nonsense

The first two are tried before a training, the last where decoding begins. Foundry's own parts have tests for all of it,
so only a model with a part of a plugin's is tried. It costs some passes over two rows.

No two ways to compute the same agree to the bit. A difference counts where it is beyond rounding in both rows: where a
layer chooses experts or blocks that are all but equal, rounding may choose the others, but seldom, and a fault is in
every row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from foundry.core.blame import CodeLine, is_plugins, place_of
from foundry.core.contracts import Cache, PluginError
from foundry.core.kernels import plan_decoding
from foundry.core.model.gpt import GPT
from foundry.core.registry import Registry

_decoding: WeakKeyDictionary[GPT, set[tuple[int, int]]] = WeakKeyDictionary()
"""The models of which it is known that they decode, and with which padding on the left of two rows."""


def plugin_parts(model: GPT) -> dict[str, CodeLine]:
    """`attention mine` -> where it is written, for each variant of a plugin's in a model."""
    variants = dict.fromkeys(filter(None, map(Registry.origin, model.modules())))
    targets = {f"{variant.slot} {variant.name}": variant.load() for variant in variants}
    places = {name: place_of(target) for name, target in targets.items() if is_plugins(target)}
    return {name: place for name, place in places.items() if place is not None}


@torch.inference_mode()
def check_causality(model: GPT) -> None:
    """Raises:
    PluginError: what is said of a token changes with those that follow it, with another row, or by chance.
    """
    length = model.dims.block_size
    half = length // 2
    if not plugin_parts(model) or half == 0:
        return
    ids, others = _rows(model, length, seed=0), _rows(model, length, seed=1)

    def beside(context: Tensor) -> Tensor:
        """Logits of the first half of each row, the rest of both rows being `context`."""
        halves = []
        for row in range(2):
            mixed = context.clone()
            mixed[row, :half] = ids[row, :half]
            halves.append(_logits(model, mixed)[row, :half])
        return torch.stack(halves)

    expected = _logits(model, ids)[:, :half]
    if by_chance := _difference(_logits(model, ids)[:, :half], expected):
        raise _fault(model, f"the same tokens, read again: {by_chance}", "outside training, nothing may be random")
    if not (difference := _difference(beside(others), expected)):
        return
    if ahead := _difference(beside(torch.cat((ids[:, :half], others[:, half:]), 1)), expected):
        what = f"a token sees what follows it: with other tokens there, {ahead}"
        raise _fault(model, what, "what is computed of a token may not depend on a later one")
    what = f"a row sees another: with other tokens there, {difference}"
    raise _fault(model, what, "what is computed of a row may not depend on the rows beside it")


@torch.inference_mode()
def check_checkpoint(model: GPT, again: GPT) -> None:
    """
    Args:
        again: made of what a checkpoint of `model` would hold.

    Raises:
        PluginError: it is another model.
    """
    ids = _rows(model, min(model.dims.block_size, 32), seed=0)
    if difference := _difference(_logits(again, ids), _logits(model, ids)):
        raise _fault(
            model,
            f"what a checkpoint holds makes another model: of the same tokens, {difference}",
            "keep what the result depends on in parameters and buffers; one with persistent=False is filled anew by "
            "init_buffers(self)",
        )


def check_decoding(model: GPT, *, padded: bool = False) -> None:
    """Tried once for each model.

    Args:
        padded: whether rows will be padded on the left, as prompts of different lengths are.

    Raises:
        PluginError: from its cache it says something else than of the whole row.
    """
    known = _decoding.setdefault(model, set())
    paddings = [(0, 0), (1, 3)] if padded and model.dims.block_size > 4 else [(0, 0)]
    for padding in paddings:
        if padding not in known and plugin_parts(model):
            _try_decoding(model, padding)
        known.add(padding)


@torch.inference_mode()
def _try_decoding(model: GPT, padding: tuple[int, int]) -> None:
    """
    Args:
        padding: on the left of each row.
    """
    length, shortest = min(model.dims.block_size, 12), max(padding)
    ids, cache, prompt = _rows(model, length, seed=0), model.init_cache(2, length), max(1, length - 3)
    real = torch.arange(length, device=ids.device) >= ids.new_tensor(padding)[:, None] if shortest else None
    pieces = [_logits(model, ids[:, :prompt], cache, real)]
    plan = plan_decoding(model)
    pieces += [_next_logits(model, ids[:, at : at + 1], cache, real, plan) for at in range(prompt, length)]
    alone = [
        _logits(model, row[None, before:])[:, shortest - before :] for row, before in zip(ids, padding, strict=True)
    ]
    if not (difference := _difference(torch.cat(pieces, 1)[:, shortest:], torch.cat(alone), rounding=1e-3)):
        return
    what, way_out = (
        "token by token",
        "adds to ctx.cache what later tokens need, and attends to all that the cache holds",
    )
    if shortest:
        what, way_out = (
            "padded on the left",
            "leaves out what ctx.key_padding says is no token, and counts by positions",
        )
    what = f"from its cache, {what}, the model says something else than of the whole row alone: {difference}"
    raise _fault(model, what, f"an attention {way_out}")


def _rows(model: GPT, length: int, seed: int) -> Tensor:
    """Two rows of tokens, (2, length) int64, drawn by nobody else's generator."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.dims.vocab_size, (2, length), generator=generator)
    return ids.to(model.embed.weight.device)


def _logits(model: GPT, ids: Tensor, cache: list[Cache] | None = None, real: Tensor | None = None) -> Tensor:
    filled = 0 if cache is None else cache[0].length
    mask = None if real is None else real[:, : filled + ids.shape[1]]
    with _evaluating(model):
        return model(ids, cache=cache, attention_mask=mask)[0]


def _next_logits(model: GPT, ids: Tensor, cache: list[Cache], real: Tensor | None, plan: Any | None) -> Tensor:
    """As a text is written, for one token of each row: (B, 1, V)."""
    mask = None if real is None else real[:, : cache[0].length + 1]
    with _evaluating(model):
        return model.next_logits(ids, cache, mask, plan)[:, None]


@contextmanager
def _evaluating(model: GPT) -> Iterator[None]:
    was_training = model.training
    try:
        model.eval()
        yield
    finally:
        model.train(was_training)


def _difference(logits: Tensor, expected: Tensor, rounding: float = 1e-4) -> str:
    """How much both rows differ, (2, T, V), in words; nothing if it may be rounding.

    Args:
        rounding: the share of the largest logit that it may come to in fp32. 1e-4 for the same operations on the same
            shapes, which differ only where tokens are grouped.
    """
    epsilon = torch.finfo(expected.dtype).eps
    if expected.is_cuda and torch.get_float32_matmul_precision() != "highest":
        epsilon = max(epsilon, 2**-10)  # TF32
    size = expected.abs().amax((1, 2)).float()
    error = (logits - expected).abs().amax((1, 2)).float()
    if not size.isfinite().all() or (error <= size * max(rounding, 32 * epsilon)).any():  # a NaN is no rounding
        return ""
    return f"logits differ by {float(error.min()):.2g}, where they are up to {float(size.max()):.2g}"


def _fault(model: GPT, what: str, way_out: str) -> PluginError:
    parts = plugin_parts(model)
    named = " and ".join(f"{place}: {name}" for name, place in parts.items())
    hints = dict.fromkeys(place.hint for place in parts.values())
    return PluginError(f"{named}: {what}", "\n".join([way_out, *hints]))
