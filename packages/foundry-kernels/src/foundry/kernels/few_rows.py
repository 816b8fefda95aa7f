"""Operators on few rows in fp32 on a CPU, by kernels of our own: csrc/linear.c, rms_norm.c and next_token.c. Decoding
consists of them: a step reads every weight for the sake of one row per text, and calling small operators takes much of
its time.

    linear      x W^T + b            x (..., K), W (N, K), b (N,) -> (..., N)
    rms_norm    x / sqrt(mean(x^2) + eps) * w            x (..., C), w (C,) -> (..., C)
    next_token  attention of one new token per text to those in its cache

A row's result is the same whatever the other rows and however many the threads. There are no gradients.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from foundry.kernels import build, matmul

LARGEST = 24
"""Rows; with more of them, products that rearrange their operands first are faster."""
WORTH_IT = 48_000
"""Multiply-adds from which a layer is faster here: calling it takes 2 microseconds more than calling torch's."""

_torchs_linear = F.linear
_is_on = False


def missing() -> str:
    """Why this cannot be had here; empty where it can."""
    return build.missing()


def suits() -> bool:
    """Whether this machine is of a kind on which the kernels were measured to be faster than torch's."""
    return matmul.suits()


class Used:
    """A context, to be entered as often as one likes, in which `foundry.kernels.rms_norm` and
    `torch.nn.functional.linear`, and so every linear layer, compute few rows by these kernels, in the whole process."""

    def __enter__(self) -> None:
        global _is_on
        _is_on, F.linear = True, linear

    def __exit__(self, *exception: object) -> None:
        global _is_on
        _is_on, F.linear = False, _torchs_linear


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `torch.nn.functional.linear`, whose place it takes."""
    inner = input.shape[-1]
    if not (
        input.numel() * weight.shape[0] >= WORTH_IT and _are_few(input)
        and weight.ndim == 2 and weight.shape[1] == inner and _is_plain(weight)
        and (bias is None or (_is_plain(bias) and bias.shape == weight.shape[:1]))
    ):  # fmt: skip
        return _torchs_linear(input, weight, bias)
    return _products(input, [(weight, bias)])[0]


def linear_layers(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    """[layer(x) for each layer]. Where the kernels are on, and the layers are linear and nothing hooks into them, their
    products are made at once: what a small layer costs is calling it, in a model of 1 M parameters twice its product.
    """
    if _is_on and _are_few(x) and not _has_any_global_hook() and all(_is_bare(layer, x.shape[-1]) for layer in layers):
        return _products(x, [(layer._parameters["weight"], layer._parameters["bias"]) for layer in layers])
    return [layer(x) for layer in layers]


def _is_bare(layer: nn.Module, inner: int) -> bool:
    """Whether calling `layer` with (..., inner) is nothing but a product that can be made here."""
    if type(layer) is not nn.Linear or layer.in_features != inner or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    return weight is not None and _is_plain(weight) and (bias is None or _is_plain(bias))


def _products(x: Tensor, layers: Sequence[tuple[Any, Tensor | None]]) -> list[Tensor]:
    """x W^T + b for each (W, b)."""
    x = x.contiguous()
    leading, inner, address, threads = x.shape[:-1], x.shape[-1], x.data_ptr(), torch.get_num_threads()
    rows, product, results = x.numel() // inner, _functions().linear, []
    for weight, bias in layers:
        columns = weight.shape[0]
        y = x.new_empty(*leading, columns)
        product(address, weight.data_ptr(), _address(bias), y.data_ptr(), rows, inner, columns, threads)
        results.append(y)
    return results


def fits_rms_norm(x: Tensor, weight: Tensor) -> bool:
    """Whether `rms_norm` is on, and made for such tensors."""
    return _is_on and _are_few(x) and weight.shape == x.shape[-1:] and _is_plain(weight)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See above."""
    x = x.contiguous()
    y, size = torch.empty_like(x), x.shape[-1]
    _functions().rms_norm(x.data_ptr(), weight.data_ptr(), y.data_ptr(), x.numel() // size, size, eps)
    return y


def fits_next_token(q: Tensor, v: Tensor, keys: Tensor) -> bool:
    """Whether `next_token` is on, and made for such tensors."""
    return (
        _is_on and q.size(2) == 1 and 0 < q.size(0) <= LARGEST and q.size(3) % 16 == 0 and q.size(3) <= 256
        and v.shape[3] == q.shape[3] and _may_compute(q) and _is_plain(keys)
    )  # fmt: skip


def next_token(
    q: Tensor, k: Tensor, v: Tensor, waves: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor, length: int,
    real: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Keep a token's key and value in the cache, and weigh all values in it: softmax(q k^T / sqrt(D)) v.

    Args:
        q: (B, H, 1, D). k, v: (B, G, 1, D), each of their heads serves H / G consecutive query heads.
        waves: `cos` and `sin`, each (B or 1, ..., D), of the position that query and key are rotated to, as in position
            rope: x cos + (x, rolled by half) sin. None: not rotated.
        keys, values: (B, G, M, D), the cache, whose first `length` < M positions are filled; the next one is written.
        real: (B, length + 1) bool, False = padding, which is not seen.

    Returns:
        (B, 1, H D)
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    (batch, n_head, _, size), (_, n_kv_head, max_len, _) = q.shape, keys.shape
    y = q.new_empty(batch, 1, n_head * size)
    cos, sin = (None, None) if waves is None else (wave.contiguous() for wave in waves)
    if real is not None and real.stride(1) != 1:
        real = real.contiguous()
    arguments = _Next(
        *map(_address, (q, k, v, cos, sin, real, keys, values, y)),
        batch, n_head, n_kv_head, size, max_len, length,
        size if cos is not None and cos.numel() > size else 0, 0 if real is None else real.stride(0),
    )  # fmt: skip
    _functions().next_token(arguments, torch.get_num_threads())
    return y


class _Next(ctypes.Structure):
    """`Next` of next_token.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "cos", "sin", "real", "keys", "values", "y")),
        *((name, ctypes.c_long) for name in ("batch", "n_head", "n_kv_head", "size", "max_len", "length")),
        *((name, ctypes.c_long) for name in ("cos_row", "real_row")),
    ]


def _are_few(x: Tensor) -> bool:
    return 0 < x.numel() <= LARGEST * x.shape[-1] and _may_compute(x)


def _may_compute(x: Tensor) -> bool:
    return (
        x.dtype == torch.float32 and x.is_cpu
        and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    )  # fmt: skip


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _is_plain(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.is_cpu and x.is_contiguous()


@cache
def _functions() -> ctypes.CDLL:
    """The library of `build`, told what its functions take."""
    library = build.load()
    pointer, number = ctypes.c_void_p, ctypes.c_long
    library.linear.argtypes = [*[pointer] * 4, *[number] * 3, ctypes.c_int]
    library.rms_norm.argtypes = [*[pointer] * 3, *[number] * 2, ctypes.c_float]
    library.next_token.argtypes = [ctypes.POINTER(_Next), ctypes.c_int]
    for function in (library.linear, library.rms_norm, library.next_token):
        function.restype = None
    return library
