"""How far two results may be apart, by what there is: new weights are small, and some layers make 1e-7 of 1."""

import torch
from torch import Tensor

from foundry.core.testing.case import Layer


def assert_same(y: Tensor, expected: Tensor) -> None:
    """But for the rounding of fp32."""
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-4 * expected.detach().abs().max().item())


def assert_near(rounded: Tensor, exact: Tensor, layer: Layer) -> None:
    """bf16 has 8 bits: a result is off by some hundredths of the largest. Where a layer chooses some of its parameters
    for each token, the rounding of two that are all but equal may choose the other: then it is off on average."""
    error, size = (rounded.float() - exact).abs(), exact.abs()
    if getattr(layer.part, "inactive_parameters", 0):
        assert error.mean() <= 0.1 * size.mean()
    else:
        assert error.max() <= 0.1 * size.max()
