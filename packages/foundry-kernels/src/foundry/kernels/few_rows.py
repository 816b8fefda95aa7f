"""Operators on few rows in fp32 on a CPU, by kernels of our own, csrc/*.c. Decoding consists of them: a step reads
every weight for the sake of one row per text. A thread computes by them while it is in `Used`.

    linear        x W^T + b            x (..., K), W (N, K), b (N,) -> (..., N)
    rms_norm      x / sqrt(mean(x^2) + eps) * w            x (..., C), w (C,) -> (..., C)

By them, a row's result is the same whatever the other rows and however many the threads. There are no gradients.
"""

import ctypes
import threading
from functools import cache

import torch
from torch import Tensor, nn

from foundry.kernels import build, matmul

LARGEST = 24
"""Rows; with more of them, products that rearrange their operands first are faster."""
WORTH_IT = 48_000
"""Multiply-adds from which `linear` is faster here: calling it takes 2 microseconds more than calling torch's."""

_KINDS = (Tensor, nn.Parameter)
"""Whose numbers lie where they say. A subclass, as of quantised weights, may call itself fp32 at address 0."""


class _OfThread(threading.local):
    entered = 0


_of_thread = _OfThread()


def missing() -> str:
    """Why it is not available here; empty where it is."""
    return build.missing()


def suits() -> bool:
    """Whether this machine is of a kind on which the kernels were measured to be faster than torch's."""
    return matmul.suits() and not build.is_held_back()


class Used:
    """A context, to be entered as often as one likes, in which this thread computes few rows by these kernels, in
    `foundry.kernels.linear` and `foundry.kernels.rms_norm`."""

    def __enter__(self) -> None:
        _of_thread.entered += 1

    def __exit__(self, *exception: object) -> None:
        _of_thread.entered -= 1


def fits_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `linear` is on, and made for such tensors."""
    return (
        are_few(x) and x.numel() * weight.shape[0] >= WORTH_IT
        and weight.ndim == 2 and weight.shape[1] == x.shape[-1] and is_plain(weight)
        and (bias is None or (is_plain(bias) and bias.shape == weight.shape[:1]))
    )  # fmt: skip


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See above."""
    x = x.contiguous()
    columns, inner = weight.shape
    y = x.new_empty(*x.shape[:-1], columns)
    _functions().linear(
        x.data_ptr(), weight.data_ptr(), address(bias), y.data_ptr(),
        x.numel() // inner, inner, columns, torch.get_num_threads(),
    )  # fmt: skip
    return y


def fits_rms_norm(x: Tensor, weight: Tensor) -> bool:
    """Whether `rms_norm` is on, and made for such tensors."""
    return are_few(x) and weight.shape == x.shape[-1:] and is_plain(weight)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See above."""
    x = x.contiguous()
    y, size = torch.empty_like(x), x.shape[-1]
    _functions().rms_norm(x.data_ptr(), weight.data_ptr(), y.data_ptr(), x.numel() // size, size, eps)
    return y


def are_few(x: Tensor) -> bool:
    """Whether the kernels are on, and made for x (..., size)."""
    if torch.compiler.is_compiling() or not _of_thread.entered:
        return False
    return (
        0 < x.numel() <= LARGEST * x.shape[-1] and type(x) in _KINDS and x.dtype == torch.float32 and x.is_cpu
        and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    )  # fmt: skip


def address(x: Tensor | None) -> int | None:
    """Of the first number; null where there is no tensor."""
    return None if x is None else x.data_ptr()


def is_plain(x: Tensor) -> bool:
    """Whether a kernel can read x where it lies."""
    return type(x) in _KINDS and x.dtype == torch.float32 and x.is_cpu and x.is_contiguous()


@cache
def _functions() -> ctypes.CDLL:
    """The library of `build`, told what its functions take."""
    library = build.load()
    pointer, number = ctypes.c_void_p, ctypes.c_long
    library.linear.argtypes = [*[pointer] * 4, *[number] * 3, ctypes.c_int]
    library.rms_norm.argtypes = [*[pointer] * 3, *[number] * 2, ctypes.c_float]
    library.linear.restype = library.rms_norm.restype = None
    return library
