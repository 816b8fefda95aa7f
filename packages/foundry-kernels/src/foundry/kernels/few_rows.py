"""Operators on few rows in fp32 on a CPU, by kernels of our own: csrc/linear.c, csrc/rms_norm.c. Decoding consists of
them: a step reads every weight for the sake of one row per text, and much of its time is calling small operators.

    linear      x W^T + b            x (..., K), W (N, K), b (N,) -> (..., N)
    rms_norm    x / sqrt(mean(x^2) + eps) * w            x (..., C), w (C,) -> (..., C)

A row's result is the same whatever the other rows and however many the threads. There are no gradients.
"""

import ctypes
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from foundry.kernels import build, matmul

LARGEST = 24
"""Rows; with more of them, products that rearrange their operands first are faster."""
WORTH_IT = 48_000
"""Weights of a layer from which it is faster here: calling it takes 2 microseconds more than calling torch's."""

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
        weight.numel() >= WORTH_IT and _are_few(input)
        and weight.ndim == 2 and weight.shape[1] == inner and _is_plain(weight)
        and (bias is None or (_is_plain(bias) and bias.shape == weight.shape[:1]))
    ):  # fmt: skip
        return _torchs_linear(input, weight, bias)
    x, y = input.contiguous(), input.new_empty(*input.shape[:-1], weight.shape[0])
    _functions().linear(
        x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), y.data_ptr(),
        x.numel() // inner, inner, weight.shape[0], torch.get_num_threads(),
    )  # fmt: skip
    return y


def fits_rms_norm(x: Tensor, weight: Tensor) -> bool:
    """Whether `rms_norm` is on, and made for such tensors."""
    return _is_on and _are_few(x) and weight.shape == x.shape[-1:] and _is_plain(weight)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See above."""
    x = x.contiguous()
    y, size = torch.empty_like(x), x.shape[-1]
    _functions().rms_norm(x.data_ptr(), weight.data_ptr(), y.data_ptr(), x.numel() // size, size, eps)
    return y


def _are_few(x: Tensor) -> bool:
    return (
        0 < x.numel() <= LARGEST * x.shape[-1] and x.dtype == torch.float32 and x.is_cpu
        and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    )  # fmt: skip


def _is_plain(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.is_cpu and x.is_contiguous()


@cache
def _functions() -> ctypes.CDLL:
    """The library of `build`, told what its functions take."""
    library = build.load()
    pointer, number = ctypes.c_void_p, ctypes.c_long
    library.linear.argtypes = [*[pointer] * 4, *[number] * 3, ctypes.c_int]
    library.rms_norm.argtypes = [*[pointer] * 3, *[number] * 2, ctypes.c_float]
    library.linear.restype = library.rms_norm.restype = None
    return library
