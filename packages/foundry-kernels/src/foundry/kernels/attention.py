"""Causal attention over whole rows in fp32 on a CPU, by a kernel of our own: csrc/attention.c.

    y = softmax(q k^T / sqrt(D) + causal mask) v

over everything, or over what a `SparsePattern` sees, in time and memory that follow the pattern. On whole rows of 64 to
1,024 tokens it takes 0.37 to 0.64 of torch's time forward, and 0.26 to 0.38 backward (`foundry kernels check`).
"""

import ctypes
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from foundry.kernels import build
from foundry.kernels.sparse_attention import sparse_attention
from foundry.kernels.sparse_pattern import SparsePattern

TILE = 16  # tokens; blocks of a pattern are made of whole ones
LARGEST_HEAD = 256  # components; each thread's scratch memory grows with it

_is_on = False


def causal_attention(q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + causal mask) v.

    Args:
        q: (B, H, T, D).
        k, v: (B, G, T, D); each of their heads serves H / G consecutive query heads.
        pattern: what a query sees of what is before it; None: everything.

    Returns:
        (B, H, T, D), contiguous as (B, T, H, D) where the kernel made it.
    """
    if pattern is not None and pattern.sees_all(q.size(2)):
        pattern = None
    if _is_on and not torch.compiler.is_compiling() and _fits(q, k, v, pattern):
        return by_kernel(q, k, v, pattern)
    if pattern is not None:
        return sparse_attention(q, k, v, pattern)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.size(1) != k.size(1))


def by_kernel(q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern | None = None) -> Tensor:
    """`causal_attention` by the kernel, of tensors that it is made for."""
    y: Tensor = _CausalAttention.apply(q, k, v, pattern)
    return y


def _fits(q: Tensor, k: Tensor, v: Tensor, pattern: SparsePattern | None) -> bool:
    if pattern is not None and pattern.block != 1 and (pattern.block % TILE or pattern.window % pattern.block):
        return False
    if not all(x.device.type == "cpu" and x.dtype == torch.float32 and x.ndim == 4 for x in (q, k, v)):
        return False
    (batch, n_head, length, size), (_, n_kv_head, _, _) = q.shape, k.shape
    same = k.shape == v.shape == (batch, n_kv_head, length, size) and n_kv_head and n_head % n_kv_head == 0
    return bool(same) and 8 <= size <= LARGEST_HEAD and length >= 16 and q.numel() > 0


def missing() -> str:
    """Why it is not available here; empty where it is."""
    return build.missing()


def suits() -> bool:
    """Whether this machine is of a kind on which the kernel is known to be faster than torch's: x86 with AVX-512."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and not build.is_held_back()


def switch(on: bool) -> None:
    """`causal_attention` by the kernel from now on, and in the whole process; or by torch's own again."""
    global _is_on
    if on:
        _functions()
    _is_on = on


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, pattern):
        q, k, v = map(_with_contiguous_rows, (q, k, v))
        y, log_sums, shape, seen = _like(q), q.new_empty(q.shape[:3]), _Shape.of(q, k), _Pattern.of(pattern, q)
        threads, library = torch.get_num_threads(), _functions()
        scratch = q.new_empty(threads * library.attention_forward_scratch(shape, seen))
        heads = [_Heads.of(x) for x in (q, k, v, y)]
        scale = 1 / math.sqrt(q.size(-1))
        library.attention_forward(shape, seen, *heads, log_sums.data_ptr(), scale, scratch.data_ptr(), threads)
        ctx.save_for_backward(q, k, v, y, log_sums)
        ctx.pattern = pattern
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        q, k, v, y, log_sums = ctx.saved_tensors
        gradient, shape, seen = _with_contiguous_rows(gradient), _Shape.of(q, k), _Pattern.of(ctx.pattern, q)
        gradients = _like(q), _like(k), _like(v)
        threads, library = torch.get_num_threads(), _functions()
        scratch = q.new_empty(threads * library.attention_backward_scratch(shape, seen))
        heads = [_Heads.of(x) for x in (q, k, v, y)]
        more = [_Heads.of(x) for x in (gradient, *gradients)]
        scale = 1 / math.sqrt(q.size(-1))
        library.attention_backward(shape, seen, *heads, log_sums.data_ptr(), *more, scale, scratch.data_ptr(), threads)
        return *gradients, None


def _with_contiguous_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _like(x: Tensor) -> Tensor:
    """An empty (B, H, T, D) whose memory is (B, T, H, D): what a projection's output is, and the next one's input."""
    batch, n_head, length, size = x.shape
    return x.new_empty(batch, length, n_head, size).transpose(1, 2)


class _Shape(ctypes.Structure):
    """`Shape` of attention.c."""

    _fields_ = [(name, ctypes.c_long) for name in ("batch", "n_head", "n_kv_head", "length", "size")]

    @classmethod
    def of(cls, q: Tensor, k: Tensor) -> "_Shape":
        return cls(q.size(0), q.size(1), k.size(1), q.size(2), q.size(3))


class _Pattern(ctypes.Structure):
    """`Pattern` of attention.c."""

    _fields_ = [(name, ctypes.c_long) for name in ("window", "block", "stride")]

    @classmethod
    def of(cls, pattern: SparsePattern | None, q: Tensor) -> "_Pattern":
        return cls(*(SparsePattern(window=q.size(2)) if pattern is None else pattern))


class _Heads(ctypes.Structure):
    """`Heads` of attention.c."""

    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_long) for name in ("batch", "head", "token"))]

    @classmethod
    def of(cls, x: Tensor) -> "_Heads":
        return cls(x.data_ptr(), *x.stride()[:3])


def _functions() -> ctypes.CDLL:
    """The library of `build`, told what its functions take."""
    library = build.load()
    if library.attention_forward.argtypes is None:
        pointer, end = ctypes.c_void_p, [ctypes.c_float, ctypes.c_void_p, ctypes.c_int]
        for scratch in (library.attention_forward_scratch, library.attention_backward_scratch):
            scratch.argtypes, scratch.restype = [_Shape, _Pattern], ctypes.c_long
        library.attention_backward.argtypes = [_Shape, _Pattern, *[_Heads] * 4, pointer, *[_Heads] * 4, *end]
        library.attention_forward.argtypes = [_Shape, _Pattern, *[_Heads] * 4, pointer, *end]
    return library
