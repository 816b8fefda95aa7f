"""How far two results may be apart, by what there is: new weights are small, and some layers make 1e-7 of 1."""

from torch import Tensor

from foundry.core.testing.case import Layer


def assert_same(y: Tensor, expected: Tensor) -> None:
    """But for the rounding of fp32."""
    assert y.shape == expected.shape, f"{tuple(y.shape)} where it should be {tuple(expected.shape)}"
    assert y.dtype == expected.dtype, f"{y.dtype} where it should be {expected.dtype}"
    size, error = (each.detach().abs().max().item() for each in (expected, y - expected))
    assert error <= 1e-4 * size, f"it differs by {error:.2g}, where values are up to {size:.2g}"


def assert_near(rounded: Tensor, exact: Tensor, layer: Layer) -> None:
    """bf16 has 8 bits: a result is off by some hundredths of the largest. Where a layer chooses some of its parameters
    for each token, the rounding of two that are all but equal may choose the other: then it is off on average."""
    error, size = (rounded.float() - exact).abs(), exact.abs()
    if getattr(layer.part, "inactive_parameters", 0):
        assert error.mean() <= 0.1 * size.mean()
    else:
        assert error.max() <= 0.1 * size.max()
