"""Whole layers on few rows in fp32 on a CPU, each by one kernel of csrc: in a small model, most of the time of a
decoded token goes into calling operators.

    feed_forward  W_down f(W_up x), gated or not           x (..., C) -> (..., C)
    next_token    a layer of attention, for one new token per text, to those in its cache

They take the modules that they stand for, and return None where `few_rows.Used` is not entered, and where those are
anything else than the kernel computes. A row's result is the same whatever the other rows and however many the threads.
There are no gradients.
"""

import ctypes
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from foundry.kernels import build
from foundry.kernels.few_rows import address, are_few, is_plain
from foundry.kernels.linear import Linear

NONLINEARITIES = ("silu", "sigmoid", "gelu", "gelu_tanh", "relu", "relu2")
"""In the order of feed_forward.c."""


def feed_forward(
    x: Tensor, gate_proj: nn.Module | None, up_proj: nn.Module, activation: nn.Module, down_proj: nn.Module
) -> Tensor | None:
    """x (..., C) -> (..., C): down(f(up(x))), or down(f(gate(x)) * up(x)). f is what `activation.nonlinearity` names,
    one of `NONLINEARITIES`; GELU's two are the exact one and GPT-2's."""
    if not (are_few(x)) or has_hooks(activation):
        return None
    if (nonlinearity := stated(activation, "nonlinearity", about="forward")) not in NONLINEARITIES:
        return None
    layers = (up_proj, down_proj) if gate_proj is None else (up_proj, down_proj, gate_proj)
    if (weights := _weights(*layers)) is None:
        return None
    size, hidden = x.shape[-1], weights[0].weight.shape[0]
    shapes = [(hidden, size), (size, hidden), (hidden, size)][: len(layers)]
    if not hidden or [each.weight.shape for each in weights] != shapes:
        return None
    x = x.contiguous()
    y = torch.empty_like(x)
    arguments = _FeedForward(
        x.data_ptr(), *(pointer for each in weights for pointer in each.addresses()), *[None] * (6 - 2 * len(layers)),
        y.data_ptr(), x.numel() // size, size, hidden, NONLINEARITIES.index(nonlinearity),
    )  # fmt: skip
    _check(_functions().feed_forward(arguments, torch.get_num_threads()))
    return y


class HeadNorms(NamedTuple):
    """The RMS norms of queries and keys; their weights are (D,), or as wide as all heads together."""

    of_queries: Tensor
    of_keys: Tensor
    eps: float


def next_token(
    x: Tensor, q_proj: nn.Module, k_proj: nn.Module, v_proj: nn.Module, o_proj: nn.Module,
    keys: Tensor, values: Tensor, length: int,
    *, n_head: int, factor: float, norms: HeadNorms | None = None, value: Tensor | None = None,
    waves: tuple[Tensor, Tensor] | None = None, real: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """Project a token to q, k and v, keep k and v in the cache, and project softmax(q k^T factor) v.

    Args:
        x: (B, 1, C).
        q_proj, k_proj, v_proj, o_proj: linear layers C -> H D, C -> G D, C -> G D, H D -> C; each of the G heads of
            keys serves H / G consecutive heads of queries.
        keys, values: (B, G, M, D), the cache, whose first `length` positions are filled; the next one is written.
        norms: normalise queries and keys before they are rotated.
        value: (B, 1, G D), added to v.
        waves: `cos` and `sin`, each (B or 1, ..., R), of the position that query and key are rotated to, as in position
            rope: the first R <= D entries of each head become x cos + (x, rolled by half) sin.
        real: (B, length + 1) bool, False = padding, which is not seen.

    Returns:
        (B, 1, C); None, beside what is said above, where the cache is full.
    """
    batch, n_kv_head, max_len, size = keys.shape
    rows, new, width = x.shape
    of_queries, of_keys = n_head * size, n_kv_head * size
    if not (
        new == 1 and rows == batch and are_few(x) and length < max_len
        and 0 < size <= 256 and size % 16 == 0 and n_head % n_kv_head == 0
        and is_plain(keys) and is_plain(values) and values.shape == keys.shape
    ):  # fmt: skip
        return None
    if (weights := _weights(q_proj, k_proj, v_proj, o_proj)) is None:
        return None
    shapes = [(of_queries, width), (of_keys, width), (of_keys, width), (width, of_queries)]
    if [each.weight.shape for each in weights] != shapes:
        return None
    q_norm, k_norm, eps = norms or (None, None, 0.0)
    if q_norm is not None and k_norm is not None:
        sizes = q_norm.numel(), k_norm.numel()
        if sizes not in ((size, size), (of_queries, of_keys)) or not (is_plain(q_norm) and is_plain(k_norm)):
            return None
    if value is not None:
        value = value.contiguous()
        if value.shape != (batch, 1, of_keys) or not is_plain(value):
            return None
    cos, sin, rotary, n_waves = None, None, 0, 0
    if waves is not None:
        cos, sin = waves[0].contiguous(), waves[1].contiguous()
        rotary, n_waves = cos.shape[-1], cos.numel()
        fits = rotary <= size and n_waves == sin.numel() and n_waves in (rotary, batch * rotary)
        if not (fits and is_plain(cos) and is_plain(sin)):
            return None
    if real is not None and not (real.shape == (batch, length + 1) and real.dtype == torch.bool and real.is_cpu):
        return None
    x = x.contiguous()
    y = torch.empty_like(x)
    if real is not None and real.stride(1) != 1:
        real = real.contiguous()
    arguments = _Next(
        x.data_ptr(), *(pointer for each in weights for pointer in each.addresses()),
        *map(address, (q_norm, k_norm, value, cos, sin, real)), keys.data_ptr(), values.data_ptr(), y.data_ptr(),
        batch, width, n_head, n_kv_head, size, max_len, length,
        rotary, rotary if n_waves > rotary else 0, 0 if real is None else real.stride(0),
        q_norm is not None and q_norm.numel() > size, factor, eps,
    )  # fmt: skip
    _check(_functions().next_token(arguments, torch.get_num_threads()))
    return y


def stated(part: Any, name: str, *, about: str) -> Any:
    """`part.name`, by which its class says what its method `about` computes; None where it does not say so, as where a
    subclass has another method and only inherits what was said of its parent's."""
    return getattr(part, name) if _is_stated(part.__class__, name, about) else None


@cache
def _is_stated(kind: type, name: str, about: str) -> bool:
    return name in vars(next((each for each in kind.__mro__ if about in vars(each)), object))


def has_hooks(module: nn.Module) -> bool:
    """Whether something wants to see the calls of `module`, which these kernels leave out, or answers in its place."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    return bool(hooked) or _has_any_global_hook()


class _FeedForward(ctypes.Structure):
    """`FeedForward` of feed_forward.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "up", "b_up", "down", "b_down", "gate", "b_gate", "y")),
        *((name, ctypes.c_long) for name in ("rows", "size", "hidden", "nonlinearity")),
    ]


class _Next(ctypes.Structure):
    """`Next` of next_token.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "q", "b_q", "k", "b_k", "v", "b_v", "o", "b_o")),
        *((name, ctypes.c_void_p) for name in ("q_norm", "k_norm", "value", "cos", "sin", "real")),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "y")),
        *((name, ctypes.c_long) for name in ("batch", "width", "n_head", "n_kv_head", "size", "max_len", "length")),
        *((name, ctypes.c_long) for name in ("rotary", "cos_row", "real_row", "norms_all_heads")),
        *((name, ctypes.c_float) for name in ("factor", "eps")),
    ]


class _Weights(NamedTuple):
    weight: Tensor
    bias: Tensor | None

    def addresses(self) -> tuple[int, int | None]:
        return self.weight.data_ptr(), address(self.bias)


def _weights(*layers: nn.Module) -> list[_Weights] | None:
    """What the layers compute with, if each is linear, nothing hooks into them, and the kernels can read it."""
    found = []
    for layer in layers:
        if type(layer) is not Linear or has_hooks(layer):
            return None
        parameters = layer._parameters
        if "bias" not in parameters:  # whoever shards or swaps parameters keeps them elsewhere
            return None
        weight, bias = parameters.get("weight"), parameters["bias"]
        if weight is None or not is_plain(weight) or not (bias is None or is_plain(bias)):
            return None
        found.append(_Weights(weight, bias))
    return found


def _check(status: int) -> None:
    if status:
        raise MemoryError("a layer's numbers between its products")


@cache
def _functions() -> ctypes.CDLL:
    """The library of `build`, told what its functions take."""
    library = build.load()
    library.feed_forward.argtypes = [ctypes.POINTER(_FeedForward), ctypes.c_int]
    library.next_token.argtypes = [ctypes.POINTER(_Next), ctypes.c_int]
    return library
