"""Whole layers on few rows in fp32 on a CPU, each by one kernel of csrc: in a small model, most of the time of a
decoded token goes into calling operators.

    FeedForward  W_down f(W_up x), gated or not           x (..., C) -> (..., C)
    AttentionStep  a layer of attention, for one new token per text, to those in its cache

`of` makes one of the modules that it stands for, once, and is None where those are anything else than the kernel
computes. Called, it looks at what differs from token to token, and returns None where the kernel is not made for that,
or `few_rows.Used` is not entered. A row's result is the same whatever the other rows and however many the threads.
There are no gradients.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from foundry.kernels import build
from foundry.kernels.calls import is_called_plainly, stated
from foundry.kernels.few_rows import Used, address, are_few, is_plain
from foundry.kernels.linear import Linear

NONLINEARITIES = ("silu", "sigmoid", "gelu", "gelu_tanh", "relu", "relu2")
"""In the order of feed_forward.c."""
LARGEST_HEAD = 256  # components, and
HEADS_OF = 16
"""they come in so many, as the widest vectors have."""


class FeedForward:
    """x (..., C) -> (..., C): down(f(up(x))), or down(f(gate(x)) * up(x))."""

    def __init__(self, up: "Weights", down: "Weights", gate: "Weights | None", nonlinearity: str) -> None:
        """f is one of `NONLINEARITIES`; GELU's two are the exact one and GPT-2's."""
        self._hidden, self._size = up.weight.shape
        self._kept = up, down, gate
        self._addresses = *up.addresses(), *down.addresses(), *(gate.addresses() if gate else (None, None))
        self._nonlinearity = NONLINEARITIES.index(nonlinearity)

    @classmethod
    def of(
        cls, gate_proj: nn.Module | None, up_proj: nn.Module, activation: nn.Module, down_proj: nn.Module
    ) -> Self | None:
        """f is what `activation.nonlinearity` names."""
        nonlinearity = stated(activation, "nonlinearity")
        if nonlinearity not in NONLINEARITIES or not is_called_plainly(activation):
            return None
        layers = (up_proj, down_proj) if gate_proj is None else (up_proj, down_proj, gate_proj)
        if (weights := weights_of(*layers)) is None:
            return None
        up, down, gate = weights[0], weights[1], None if gate_proj is None else weights[2]
        hidden, size = up.weight.shape
        shapes = [(hidden, size), (size, hidden), (hidden, size)]
        if not hidden or any(each.weight.shape != shape for each, shape in zip(weights, shapes, strict=False)):
            return None
        return cls(up, down, gate, nonlinearity)

    def __call__(self, x: Tensor) -> Tensor | None:
        if not are_few(x) or x.shape[-1] != self._size:
            return None
        x = x.contiguous()
        y = torch.empty_like(x)
        arguments = _FeedForward(
            x.data_ptr(), *self._addresses, y.data_ptr(),
            x.numel() // self._size, self._size, self._hidden, self._nonlinearity,
        )  # fmt: skip
        _check(_functions().feed_forward(arguments, torch.get_num_threads()))
        return y


class HeadNorms(NamedTuple):
    """The RMS norms of queries and keys; their weights are (D,), or as wide as all heads together."""

    of_queries: Tensor
    of_keys: Tensor
    eps: float


class AttentionStep:
    """Project a token to q, k and v, keep k and v in the cache, and project softmax(q k^T factor) v."""

    def __init__(
        self, q: "Weights", k: "Weights", v: "Weights", o: "Weights", n_head: int, factor: float,
        norms: HeadNorms | None,
    ) -> None:  # fmt: skip
        self._n_head, self._factor, self._width = n_head, factor, q.weight.shape[1]
        self._size = q.weight.shape[0] // n_head
        self._n_kv_head = k.weight.shape[0] // self._size
        self._kept = q, k, v, o
        self._addresses = tuple(pointer for each in self._kept for pointer in each.addresses())
        q_norm, k_norm, self._eps = norms or (None, None, 0.0)
        self._norms = [norm if norm is None else norm.detach() for norm in (q_norm, k_norm)]
        self._addresses += tuple(map(address, self._norms))
        self._norms_all_heads = q_norm is not None and q_norm.numel() > self._size

    @classmethod
    def of(
        cls, q_proj: nn.Module, k_proj: nn.Module, v_proj: nn.Module, o_proj: nn.Module,
        *, n_head: int, factor: float, norms: HeadNorms | None = None,
    ) -> Self | None:  # fmt: skip
        """
        Args:
            q_proj, k_proj, v_proj, o_proj: linear layers C -> H D, C -> G D, C -> G D, H D -> C; each of the G heads of
                keys serves H / G consecutive heads of queries.
            norms: normalise queries and keys before they are rotated.
        """
        if (weights := weights_of(q_proj, k_proj, v_proj, o_proj)) is None:
            return None
        (of_queries, width), (of_keys, _) = weights[0].weight.shape, weights[1].weight.shape
        shapes = [(of_queries, width), (of_keys, width), (of_keys, width), (width, of_queries)]
        size = of_queries // n_head
        fits = size * n_head == of_queries and 0 < size <= LARGEST_HEAD and size % HEADS_OF == 0
        if not fits or [each.weight.shape for each in weights] != shapes or not of_keys or of_keys % size:
            return None
        if n_head % (of_keys // size):
            return None
        if norms is not None:
            sizes = norms.of_queries.numel(), norms.of_keys.numel()
            plain = is_plain(norms.of_queries) and is_plain(norms.of_keys)
            if sizes not in ((size, size), (of_queries, of_keys)) or not plain:
                return None
        q, k, v, o = weights
        return cls(q, k, v, o, n_head, factor, norms)

    def __call__(
        self, x: Tensor, keys: Tensor, values: Tensor, length: int,
        *, value: Tensor | None = None, waves: tuple[Tensor, Tensor] | None = None, real: Tensor | None = None,
    ) -> Tensor | None:  # fmt: skip
        """
        Args:
            x: (B, 1, C).
            keys, values: (B, G, M, D), the cache, whose first `length` positions are filled; the next one is written.
            value: (B, 1, G D), added to v.
            waves: `cos` and `sin`, each (B or 1, ..., R), of the position that query and key are rotated to, as in
                position rope: the first R <= D entries of each head become x cos + (x, rolled by half) sin.
            real: (B, length + 1) bool, False = padding, which is not seen.

        Returns:
            (B, 1, C); None, beside what is said above, where the cache is full.
        """
        batch, n_kv_head, max_len, size = keys.shape
        if not (
            are_few(x) and x.shape == (batch, 1, self._width) and length < max_len
            and n_kv_head == self._n_kv_head and size == self._size
            and is_plain(keys) and is_plain(values) and values.shape == keys.shape
        ):  # fmt: skip
            return None
        if value is not None:
            value = value.contiguous()
            if value.shape != (batch, 1, n_kv_head * size) or not is_plain(value):
                return None
        cos, sin, rotary, n_waves = None, None, 0, 0
        if waves is not None:
            cos, sin = waves[0].contiguous(), waves[1].contiguous()
            rotary, n_waves = cos.shape[-1], cos.numel()
            fits = rotary <= size and n_waves == sin.numel() and n_waves in (rotary, batch * rotary)
            if not (fits and is_plain(cos) and is_plain(sin)):
                return None
        if real is not None:
            if real.shape != (batch, length + 1) or real.dtype != torch.bool or not real.is_cpu:
                return None
            real = real if real.stride(1) == 1 else real.contiguous()
        x = x.contiguous()
        y = torch.empty_like(x)
        arguments = _Next(
            x.data_ptr(), *self._addresses, *map(address, (value, cos, sin, real)),
            keys.data_ptr(), values.data_ptr(), y.data_ptr(),
            batch, self._width, self._n_head, n_kv_head, size, max_len, length,
            rotary, rotary if n_waves > rotary else 0, 0 if real is None else real.stride(0),
            self._norms_all_heads, self._factor, self._eps,
        )  # fmt: skip
        _check(_functions().next_token(arguments, torch.get_num_threads()))
        return y


def feed_forward(x: Tensor, up: Tensor, down: Tensor, gate: Tensor) -> Tensor:
    """down (silu(gate x) * up x) of few rows x (..., C); up, gate (F, C), down (C, F)."""
    return _computed(FeedForward(Weights(up), Weights(down), Weights(gate), "silu"), x)


def next_token(
    x: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, keys: Tensor, values: Tensor, n_head: int
) -> Tensor:
    """What `AttentionStep` makes of x (B, 1, C) and a cache (B, G, S, D) in which the last place is free."""
    size = q.shape[0] // n_head
    kernel = AttentionStep(Weights(q), Weights(k), Weights(v), Weights(o), n_head, size**-0.5, None)
    return _computed(kernel, x, keys, values, keys.size(2) - 1)


@torch.no_grad()
def _computed(kernel: Callable[..., Tensor | None], *given: Any) -> Tensor:
    with Used():
        y = kernel(*given)
    if y is None:
        raise ValueError(f"{type(kernel).__name__} is not for such tensors")
    return y


class Weights(NamedTuple):
    """What a linear layer computes with: (out, in), and (out,) or None."""

    weight: Tensor
    bias: Tensor | None = None

    def addresses(self) -> tuple[int, int | None]:
        return self.weight.data_ptr(), address(self.bias)


def weights_of(*layers: nn.Module) -> list[Weights] | None:
    """Of linear layers; None where one is another one, where something hooks into it, or where the kernels cannot read
    it. They stay where they are while they are referenced, also where a layer gets others."""
    found = []
    for layer in layers:
        if type(layer) is not Linear or not is_called_plainly(layer):
            return None
        for each in (layer.weight, layer.bias):
            # Whoever shards or swaps parameters leaves another kind of tensor there.
            if not (each is None or (type(each) is nn.Parameter and is_plain(each))):
                return None
        found.append(Weights(layer.weight.detach(), None if layer.bias is None else layer.bias.detach()))
    return found


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
