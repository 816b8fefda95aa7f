"""Whether each kernel of the table computes what its reference does, and how fast: for `foundry kernels check`."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foundry.kernels import SparsePattern, rounding
from foundry.kernels.table import KERNELS, Kernel

Function = Callable[..., Tensor]
Bounds = Callable[[Sequence[Tensor], Sequence[Any], Tensor], Sequence[Tensor | float]]
"""(the value in fp64, and its gradients if there are any; inputs; upstream) -> how far each of them may be from it."""


class Case(NamedTuple):
    """What an operator computes."""

    op: str
    size: str
    inputs: list[Any]
    bounds: Bounds
    has_gradient: bool = False


class Comparison(NamedTuple):
    """One kernel on one size, forward, and backward if it has a gradient."""

    kernel: str
    size: str
    error: float  # the largest difference from fp64, values and gradients, over the largest number there
    torch_error: float  # the same of its reference in fp32
    excess: float  # the largest difference from fp64, as a multiple of what rounding may come to there
    seconds: float  # medians of calls that take turns
    torch_seconds: float

    @property
    def ratio(self) -> float:
        """How many times as fast as torch's own."""
        return self.torch_seconds / self.seconds

    @property
    def is_wrong(self) -> bool:
        """Whether it differs from fp64 by more than rounding."""
        return not self.excess <= 1


def compare(seconds: float = 1.0) -> list[Comparison]:
    """Every kernel that this machine can have, against its reference in fp64 and fp32, for about `seconds` each."""
    here = {kernel.op: kernel for kernel in KERNELS if not kernel.missing()}
    return [_compare(here[case.op], case, seconds) for case in cases() if case.op in here]


def cases() -> Iterator[Case]:
    """Some of each operator, drawn by a generator of its own."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    generator = torch.Generator().manual_seed(0)
    for batch, length, n_head, size in ((12, 64, 4, 32), (8, 256, 6, 64)):
        heads = [draw(batch, length, n_head, size).transpose(1, 2) for _ in range(3)]
        bounds = _of_attention(SparsePattern(window=length))
        yield Case("attention", f"B{batch} H{n_head} T{length} D{size}", heads, bounds, has_gradient=True)
    for rows, inner, columns in ((768, 128, 128), (768, 128, 512), (2048, 384, 1536)):
        x, weight, upstream = draw(rows, inner), draw(columns, inner), draw(rows, columns)
        for a, b in ((x, weight.T), (upstream, weight), (upstream.T, x)):  # a linear layer, and its two gradients
            yield Case("matmul", f"{a.size(0)} x {a.size(1)} x {b.size(1)}", [a, b], _of_product)
    width, hidden, n_head, n_kv_head, size, length = 320, 856, 10, 5, 32, 128
    up, gate, down = draw(hidden, width), draw(hidden, width), draw(width, hidden)
    for rows in (1, 8):
        x = draw(rows, width)
        yield Case("linear", f"{rows} x {width} x {hidden}", [x, up], _of_linear)
        yield Case("rms_norm", f"{rows} x {width}", [x, draw(width), 1e-5], _of_sums(width + rounding.FUNCTION))
        sums = _of_sums(width, 2 * rounding.FUNCTION, hidden)
        yield Case("feed_forward", f"{rows} x {width} x {hidden}", [x, up, down, gate], sums)
        heads = [draw(each * size, width) / width**0.5 for each in (n_head, n_kv_head, n_kv_head)]
        cache = [draw(rows, n_kv_head, length, size) for _ in range(2)]
        layer = [x[:, None], *heads, draw(width, n_head * size), *cache, n_head]
        sums = _of_sums(2 * width, 2 * size, rounding.FUNCTION, length, n_head * size)
        yield Case("next_token", f"B{rows} H{n_head} T{length} D{size}", layer, sums)
    rows, width = 768, 128
    inputs, sums = [draw(rows, width), draw(width), 1e-5], _of_sums(2 * width, rounding.FUNCTION, rows)
    yield Case("rms_norm_with_gradient", f"{rows} x {width}", inputs, sums, has_gradient=True)
    pattern = SparsePattern(window=64)
    heads = [draw(2, 4, 512, 32) for _ in range(3)]
    yield Case("sparse_attention", "B2 H4 T512 D32", [*heads, pattern], _of_attention(pattern), has_gradient=True)
    n, chosen, table = 256, 32, draw(4096, width)
    ids = torch.randint(len(table), (n, chosen), generator=generator)
    for op, first in (("dot_rows", draw(n, width)), ("add_rows", draw(n, chosen, 1))):
        yield Case(op, f"{n} x {chosen} of 4096 x {width}", [first, table, ids], _of_sums(width, chosen), True)
    inputs = [draw(n, width), draw(2048, width) / width**0.5, torch.randint(2048, (n,), generator=generator)]
    sums = _of_sums(width, rounding.FUNCTION, 2048, n)
    yield Case("linear_cross_entropy", f"{n} x {width} x 2048", inputs, sums, has_gradient=True)


def _of_attention(pattern: SparsePattern) -> Bounds:
    def bounds(exact: Sequence[Tensor], inputs: Sequence[Any], upstream: Tensor) -> Sequence[Tensor]:
        every = torch.arange(inputs[0].size(2))
        q, k, v = inputs[:3]
        return rounding.of_attention(q, k, v, upstream, pattern.mask(every, every))

    return bounds


def _of_product(exact: Sequence[Tensor], inputs: Sequence[Any], upstream: Tensor) -> Sequence[Tensor]:
    a, b = inputs
    return [rounding.of_product(a, b, a.dtype)]


def _of_linear(exact: Sequence[Tensor], inputs: Sequence[Any], upstream: Tensor) -> Sequence[Tensor]:
    x, weight = inputs
    return [rounding.of_product(x, weight.T, x.dtype)]


def _of_sums(*lengths: float) -> Bounds:
    """Of sums of so many products, made one after the other."""
    return lambda exact, inputs, upstream: [rounding.of_chain(each, torch.float32, *lengths) for each in exact]


def _compare(kernel: Kernel, case: Case, seconds: float) -> Comparison:
    functions = {True: kernel.fn, False: kernel.reference}
    upstream = torch.ones_like(kernel.reference(*case.inputs))
    exact = _answer(kernel.reference, [_precise(x) for x in case.inputs], upstream.double(), case.has_gradient)
    ours, torchs = (_answer(each, case.inputs, upstream, case.has_gradient) for each in functions.values())
    excess = max(map(rounding.excess, ours, exact, case.bounds(exact, case.inputs, upstream)))
    times = dict[bool, list[float]]({True: [], False: []})
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times[False]:
        for which, function in functions.items():
            began = time.perf_counter()
            _answer(function, case.inputs, upstream, case.has_gradient)
            times[which].append(time.perf_counter() - began)
    medians = statistics.median(times[True]), statistics.median(times[False])
    return Comparison(kernel.op, case.size, _error(ours, exact), _error(torchs, exact), excess, *medians)


def _precise(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _answer(function: Function, inputs: Sequence[Any], upstream: Tensor, has_gradient: bool) -> Sequence[Tensor]:
    """The value, and its gradients to all inputs where it has any."""
    if not has_gradient:
        with torch.no_grad():
            return [function(*inputs)]
    floating = [isinstance(x, Tensor) and x.is_floating_point() for x in inputs]
    leaves = [x.detach().requires_grad_() if each else x for x, each in zip(inputs, floating, strict=True)]
    y = function(*leaves)
    to = [x for x, each in zip(leaves, floating, strict=True) if each]
    return [y.detach(), *torch.autograd.grad(y, to, upstream)]


def _error(answer: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(answer, exact, strict=True))
