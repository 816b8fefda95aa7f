"""Matrix products by oneDNN, where the BLAS inside torch is not made for the processor.

MKL takes its AVX-512 kernels on Intel's processors only. On an AMD EPYC of family 26 it makes 103 GFLOP/s a core where
oneDNN, which is inside torch as well, makes 230. So torch's own `mm` and `addmm` are replaced on the CPU, for fp32
operands of some size; everything that is made of them, gradients too, follows.
"""

import platform
from pathlib import Path

import torch
from torch import Tensor
from torch.library import Library

WORTH_IT = 1 << 21
"""Multiply-adds from which oneDNN is faster: it takes 15 microseconds to find its kernel."""

_library: Library | None = None


def missing() -> str:
    """Why it is not available here; empty where it is."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "torch is built without oneDNN"
    return ""


def suits() -> bool:
    """Whether this machine is of a kind on which oneDNN was measured to be faster than torch's BLAS."""
    avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.backends.mkl.is_available() and _vendor() == "AuthenticAMD" and avx512


def _vendor() -> str:
    """CPUID's name of who made the processor; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")


def switch(on: bool) -> None:
    """Products by oneDNN from now on, and in the whole process; or by torch's own kernels again."""
    global _library
    if not on:
        _library = None  # what it has registered goes with it
    elif _library is None:
        _library = Library("aten", "IMPL")
        _library.impl("mm", _mm, "CPU")
        _library.impl("addmm", _addmm, "CPU")


def by_onednn(a: Tensor, b: Tensor) -> Tensor:
    """(M, K) @ (K, N) -> (M, N), in fp32."""
    return _linear(a, b, None)


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """(M, K) @ (K, N) -> (M, N)"""
    if _worth_it(a, b):
        return by_onednn(a, b)
    return torch.ops.aten.mm.out(a, b, out=a.new_empty(0))


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta bias + alpha (M, K) @ (K, N); a bias of (N,) is a linear layer's."""
    if bias.ndim == 1 and bias.dtype == a.dtype and len(bias) == b.size(-1) and beta == alpha == 1 and _worth_it(a, b):
        return _linear(a, b, bias)
    return torch.ops.aten.addmm.out(bias, a, b, beta=beta, alpha=alpha, out=a.new_empty(0))


def _linear(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """The operator by which compiled models call oneDNN: a (W^T) + bias."""
    return torch.ops.mkldnn._linear_pointwise(a, dense(b.t()), bias, "none", [], "")


def dense(weight: Tensor) -> Tensor:
    """The same (N, K) without gaps between rows or columns. A slice, such as part of a projection in the gradient of
    what reads it, would go to oneDNN's reference code: 300 ms instead of 0.2 for 512 x 64 x 256."""
    return weight if weight.is_contiguous() or weight.t().is_contiguous() else weight.contiguous()


def _worth_it(a: Tensor, b: Tensor) -> bool:
    if not (a.dtype == b.dtype == torch.float32 and a.ndim == b.ndim == 2 and a.size(1) == b.size(0)):
        return False
    (rows, inner), columns = a.shape, b.size(1)
    return rows * inner * columns >= WORTH_IT and min(rows, inner, columns) >= 16
