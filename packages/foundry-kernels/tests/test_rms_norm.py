"""The RMS norm with the fast gradient against torch's."""

import pytest
import torch
import torch.nn.functional as F

from foundry.kernels import rms_norm, rounding

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("shape", [(5, 16), (2, 7, 32), (2, 3, 7, 8)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_value_and_gradients_equal_torchs(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    # Large and small rows, and one whose mean is far from 0: the gradient is made by a kernel that subtracts means.
    x = torch.randn(shape, generator=generator, dtype=dtype)
    x[0] = 100 * x[0] + 300
    x[1] *= 1e-3
    weight = torch.randn(shape[-1], generator=generator, dtype=dtype)
    upstream = torch.randn(shape, generator=generator, dtype=dtype)

    def answer(function, *inputs):
        leaves = [each.detach().clone().requires_grad_() for each in inputs]
        y = function(*leaves)
        return y, *torch.autograd.grad(y, leaves, upstream.to(y.dtype))

    ours = answer(lambda x, weight: rms_norm(x, weight, 1e-5), x, weight)
    exact = answer(lambda x, weight: F.rms_norm(x, weight.shape, weight, 1e-5), x.double(), weight.double())
    # With r = 1 / sqrt(mean(x^2) + eps), n = x r and h = upstream weight:
    # y = n weight, dx = r (h - n mean(h n)), made with mean(h) taken off and added back, dweight = sum upstream n
    size, rows = shape[-1], x.numel() // shape[-1]
    x, weight, upstream = x.double().abs(), weight.double().abs(), upstream.double().abs()
    r = (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    n, h = x * r, upstream * weight
    of_x = r * (h + 2 * h.mean(-1, keepdim=True) + 2 * n * (h * n).mean(-1, keepdim=True))
    of_weight = (upstream * n).flatten(0, -2).sum(0)
    in_row = rounding.rounding(dtype, size + rounding.FUNCTION)
    bounds = in_row * n * weight, 2 * in_row * of_x, (in_row + rounding.rounding(dtype, rows)) * of_weight
    for mine, theirs, bound in zip(ours, exact, bounds, strict=True):
        assert mine.dtype == dtype
        assert rounding.excess(mine, theirs, bound) <= 1


def test_gradcheck_of_a_strided_input():
    x = torch.randn(4, 8, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x.transpose(1, 2), w, 1e-5), (x, weight))


def test_bf16_and_a_frozen_weight():
    x = torch.randn(3, 8, dtype=torch.bfloat16, requires_grad=True)
    assert rms_norm(x, torch.ones(8, dtype=torch.bfloat16), 1e-5).dtype == torch.bfloat16
    x = torch.randn(3, 8, requires_grad=True)
    rms_norm(x, torch.ones(8), 1e-5).sum().backward()
    assert x.grad is not None
