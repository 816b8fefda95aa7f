"""How far two results may be apart if nothing but rounding is between them: by their dtype, by the sums that a number
goes through, and by its size, and so on any processor. New weights are small, and some layers make 1e-7 of 1.

Errors of random sign add up as their squares do, and so do products of random sign: relative to its result, a sum of n
of them is off by the root of n times eps (Higham and Mary, 2019, doi:10.1137/18M1226312). bf16 and fp16 are added up in
fp32, and rounded where a result is stored.
"""

import math

import torch
from torch import Tensor, nn

ROOM = 4
"""Standard deviations, of twice the size: eps is two units of rounding."""
ELEMENTWISE = 8
"""Operators beside the sums of a module, each of which rounds its result."""


def rounding(dtype: torch.dtype, *lengths: float) -> float:
    """The relative error of what sums of `lengths` products made one after the other, each of which is stored."""
    in_sums = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    stored = 0.0 if dtype.itemsize >= 4 else torch.finfo(dtype).eps
    return ROOM * math.sqrt(sum(length * in_sums**2 + stored**2 for length in lengths))


def sums_of(*modules: nn.Module) -> list[int]:
    """The lengths of the sums that a number may go through on its way through `modules`: each parameter is that of one,
    as long as its last axis, and has a function behind it."""
    shapes = [parameter.shape for module in modules for parameter in module.parameters()]
    return [*(length for shape in shapes for length in (*shape[-1:], 1)), *[1] * ELEMENTWISE]


def assert_rounded(y: Tensor, expected: Tensor, *lengths: float, dtype: torch.dtype | None = None) -> None:
    """They differ by no more than sums of `lengths` products, one after the other, may: `sums_of` the modules in
    between. For gradients these are on the way twice, and beside them the tokens that they are summed over.

    Args:
        dtype: what was computed in, where `y` has another.
    """
    assert y.shape == expected.shape, f"{tuple(y.shape)} and {tuple(expected.shape)}"
    if not y.numel():
        return
    y, expected, dtype = y.detach().double(), expected.detach().double(), dtype or y.dtype
    difference, largest = (y - expected).abs().max().item(), expected.abs().max().item()
    allowed = rounding(dtype, *lengths) * largest
    assert difference <= allowed, (
        f"off by {difference:.2g} where the largest number is {largest:.2g}; rounding comes to {allowed:.2g} at most"
    )
