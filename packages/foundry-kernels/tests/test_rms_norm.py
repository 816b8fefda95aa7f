"""The RMS norm with the fast gradient against torch's."""

import pytest
import torch
import torch.nn.functional as F

from foundry.kernels import rms_norm


@pytest.mark.parametrize("shape", [(5, 16), (2, 7, 32), (2, 3, 7, 8)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_value_and_gradients_equal_torchs(shape, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    # Large and small rows, and one whose mean is far from 0: the gradient is made by a kernel that subtracts means.
    x = torch.randn(shape, generator=generator, dtype=dtype)
    x[0] = 100 * x[0] + 300
    x[1] *= 1e-3
    x.requires_grad_()
    weight = torch.randn(shape[-1], generator=generator, dtype=dtype, requires_grad=True)
    upstream = torch.randn(shape, generator=generator, dtype=dtype)
    expected = F.rms_norm(x, weight.shape, weight, 1e-5)
    expected_gradients = torch.autograd.grad(expected, (x, weight), upstream)
    y = rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(torch.autograd.grad(y, (x, weight), upstream), expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())


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
