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

from weakref import WeakSet

import torch
from torch import Tensor

from foundry.core.blame import Place, place_of
from foundry.core.contracts import Cache, PluginError
from foundry.core.kernels import decoding_kernels
from foundry.core.model.gpt import GPT
from foundry.core.registry import Registry

_decoding: WeakSet[GPT] = WeakSet()
"""The models of which it is known that they decode."""


def plugin_parts(model: GPT) -> dict[str, Place]:
    """`attention mine` -> where it is written, for each variant of a plugin's in a model."""
    variants = dict.fromkeys(filter(None, map(Registry.origin, model.modules())))
    places = {f"{variant.slot} {variant.name}": place_of(variant.load()) for variant in variants}
    return {name: place for name, place in places.items() if place is not None and place.distribution}


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


@torch.inference_mode()
def check_decoding(model: GPT) -> None:
    """Tried once for each model.

    Raises:
        PluginError: it says something else from its cache.
    """
    if model in _decoding:
        return
    if plugin_parts(model):
        length = min(model.dims.block_size, 12)
        prompt = max(1, length - 3)
        ids, cache = _rows(model, length, seed=0), model.init_cache(2, length)
        pieces = [_logits(model, ids[:, :prompt], cache)]
        with decoding_kernels():
            pieces += [_logits(model, ids[:, at : at + 1], cache) for at in range(prompt, length)]
        if difference := _difference(torch.cat(pieces, 1), _logits(model, ids), rounding=1e-3):
            raise _fault(
                model,
                f"from its cache, token by token, the model says something else than of the whole text: {difference}",
                "an attention adds to ctx.cache what later tokens need, and attends to all that the cache holds",
            )
    _decoding.add(model)


def _rows(model: GPT, length: int, seed: int) -> Tensor:
    """Two rows of tokens, (2, length) int64, drawn by nobody else's generator."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.dims.vocab_size, (2, length), generator=generator)
    return ids.to(model.embed.weight.device)


def _logits(model: GPT, ids: Tensor, cache: list[Cache] | None = None) -> Tensor:
    was_training = model.training
    try:
        return model.eval()(ids, cache=cache)[0]
    finally:
        model.train(was_training)


def _difference(logits: Tensor, expected: Tensor, rounding: float = 1e-4) -> str:
    """By how much both rows differ, (2, T, V), in words; nothing where it may be rounding.

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
