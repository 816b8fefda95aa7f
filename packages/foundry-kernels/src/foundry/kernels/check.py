"""Whether each native kernel computes what torch does, and how fast: what `foundry kernels check` prints."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from foundry.kernels import causal_attention, native, rounding

Function = Callable[..., Tensor]
Bounds = Callable[..., Sequence[Tensor]]
"""(*inputs, upstream) -> how far the value and its gradients may be from those in fp64."""


class Case(NamedTuple):
    """A kernel, by its name, and what it computes."""

    kernel: str
    size: str
    function: Function
    inputs: list[Tensor]
    bounds: Bounds


class Comparison(NamedTuple):
    """One kernel on one size, forward and backward together."""

    kernel: str
    size: str
    error: float  # the largest difference from fp64, values and gradients, over the largest number there
    torch_error: float  # the same of torch's own kernel in fp32
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
    """Every kernel that this machine can have, against torch in fp64 and fp32, for about `seconds` each. What is in use
    afterwards is nothing."""
    here = [name for name, reason in native.missing().items() if not reason]
    found = [_compare(case, seconds) for case in _cases() if case.kernel in here]
    native.use([])
    return found


def _cases() -> list[Case]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    generator = torch.Generator().manual_seed(0)
    cases = []
    for batch, length, n_head, size in ((12, 64, 4, 32), (8, 256, 6, 64)):
        heads = [draw(batch, length, n_head, size).transpose(1, 2) for _ in range(3)]
        cases.append(Case("attention", f"B{batch} H{n_head} T{length} D{size}", causal_attention, heads, _of_attention))
    for rows, inner, columns in ((768, 128, 128), (768, 128, 512), (2048, 384, 1536)):
        inputs = [draw(rows, inner), draw(columns, inner)]
        cases.append(Case("matmul", f"{rows} x {inner} x {columns}", F.linear, inputs, _of_linear))
    return cases


def _of_attention(q: Tensor, k: Tensor, v: Tensor, upstream: Tensor) -> Sequence[Tensor]:
    causal = torch.ones(q.size(2), k.size(2), dtype=torch.bool).tril()
    return rounding.of_attention(q, k, v, upstream, causal)


def _of_linear(x: Tensor, weight: Tensor, upstream: Tensor) -> Sequence[Tensor]:
    products = ((x, weight.T), (upstream, weight), (upstream.T, x))
    return [rounding.of_product(a, b, x.dtype) for a, b in products]


def _compare(case: Case, seconds: float) -> Comparison:
    name, size, function, inputs, bounds = case
    upstream = torch.ones_like(function(*inputs))
    exact = _answer(function, [x.double() for x in inputs], upstream.double())
    excess, errors, times = torch.inf, {}, dict[bool, list[float]]({False: [], True: []})
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times[True]:
        for ours in (False, True):
            native.use([name] if ours else [])
            began = time.perf_counter()
            answer = _answer(function, inputs, upstream)
            times[ours].append(time.perf_counter() - began)
            if ours not in errors:
                errors[ours] = _error(answer, exact)
                if ours:
                    excess = max(map(rounding.excess, answer, exact, bounds(*inputs, upstream)))
    native_seconds, torch_seconds = statistics.median(times[True]), statistics.median(times[False])
    return Comparison(name, size, errors[True], errors[False], excess, native_seconds, torch_seconds)


def _answer(function: Function, inputs: list[Tensor], upstream: Tensor) -> Sequence[Tensor]:
    """The value, and its gradients to all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = function(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, upstream)


def _error(answer: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(answer, exact, strict=True))
