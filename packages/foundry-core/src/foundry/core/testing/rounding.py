"""How far two results may be apart if nothing but rounding is between them: by their dtype, by the sums that a number
goes through, and by its size, and so on any processor. New weights are small, and some layers make 1e-7 of 1.

Errors of random sign add up as their squares do, and so do products of random sign: relative to its result, a sum of n
of them is off by the root of n times eps (Higham and Mary, 2019, doi:10.1137/18M1226312). bf16 and fp16 are added up in
fp32, and rounded where a result is stored.
"""

import math
from collections.abc import Mapping

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


def sums_of(*modules: nn.Module, tokens: int | None = None) -> list[int]:
    """The lengths of the sums that a number may go through on its way through `modules`: each parameter is that of one,
    as long as its last axis, and has a function behind it.

    Args:
        tokens: of a gradient, over which it is summed; the way there and back is then meant.
    """
    shapes = [parameter.shape for module in modules for parameter in module.parameters()]
    there = [*(length for shape in shapes for length in (*shape[-1:], 1)), *[1] * ELEMENTWISE]
    return there if tokens is None else [*there, *there, tokens]


def assert_rounded(
    y: Tensor, expected: Tensor, *lengths: float, dtype: torch.dtype | None = None, size: float = 0.0
) -> None:
    """They differ by no more than sums of `lengths` products, one after the other, may: `sums_of` what is in between.

    Args:
        dtype: what was computed in, where `y` has another.
        size: the largest number that was added up, where the result may be much smaller: a gradient that is 0 is the
            difference of two that were rounded.
    """
    assert y.shape == expected.shape, f"{tuple(y.shape)} where it should be {tuple(expected.shape)}"
    assert dtype is not None or y.dtype == expected.dtype, f"{y.dtype} where it should be {expected.dtype}"
    if not y.numel():
        return
    y, expected, dtype = y.detach().double(), expected.detach().double(), dtype or y.dtype
    difference, largest = (y - expected).abs().max().item(), max(size, expected.abs().max().item())
    allowed = rounding(dtype, *lengths) * largest
    assert difference <= allowed, (
        f"it differs by {difference:.2g} where values are up to {largest:.2g}, and rounding comes to {allowed:.2g}"
    )


def assert_gradients_rounded(gradients: Mapping[str, Tensor], expected: Mapping[str, Tensor], *lengths: float) -> None:
    """Each is `expected`, but for rounding; the largest number of them all is the size of what was added up."""
    assert gradients.keys() == expected.keys()
    size = max(each.detach().abs().max().item() for each in expected.values())
    for name, each in expected.items():
        try:
            assert_rounded(gradients[name], each, *lengths, size=size)
        except AssertionError as error:
            raise AssertionError(f"the gradient of {name}: {error}") from None
