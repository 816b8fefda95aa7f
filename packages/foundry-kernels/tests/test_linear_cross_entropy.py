"""The chunked linear cross-entropy against the plain one, and what it promises beyond that."""

import pytest
import torch
import torch.nn.functional as F

from foundry.kernels import linear_cross_entropy

N, C, V = 37, 12, 29


def sample(dtype, weighted):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, C, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(V, C, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(V, (N,), generator=generator)
    loss_weight = (torch.rand(N, generator=generator) > 0.3).float() * 1.5 if weighted else None
    return hidden, weight, targets, loss_weight


def plain(hidden, weight, targets, loss_weight):
    losses = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    return (losses if loss_weight is None else losses * loss_weight).sum()


@pytest.mark.parametrize("chunk", [1, 10, N, 1000])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_value_and_gradients_equal_the_plain_ones(dtype, tolerance, weighted, chunk):
    hidden, weight, targets, loss_weight = sample(dtype, weighted)
    expected = plain(hidden, weight, targets, loss_weight)
    expected_gradients = torch.autograd.grad(3 * expected, (hidden, weight))
    total = linear_cross_entropy(hidden, weight, targets, loss_weight, chunk=chunk)
    gradients = torch.autograd.grad(3 * total, (hidden, weight))
    torch.testing.assert_close(total, expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(weighted):
    hidden, weight, targets, loss_weight = sample(torch.float64, weighted)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, loss_weight, chunk=10), (hidden, weight)
    )


def test_bf16_sums_in_fp32():
    hidden, weight, targets, _ = sample(torch.bfloat16, weighted=False)
    total = linear_cross_entropy(hidden, weight, targets, chunk=10)
    gradients = torch.autograd.grad(total, (hidden, weight))
    exact_hidden, exact_weight = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = plain(exact_hidden, exact_weight, targets, None)
    exact = torch.autograd.grad(expected, (exact_hidden, exact_weight))
    assert total.dtype == torch.float32
    torch.testing.assert_close(total.double(), expected, rtol=5e-3, atol=0.0)
    for ours, theirs in zip(gradients, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() < 0.02 * theirs.norm()


def test_autocast_multiplies_in_bf16_as_a_linear_layer_does():
    hidden, weight, targets, _ = sample(torch.float32, weighted=False)
    with torch.autocast("cpu", torch.bfloat16):
        total = linear_cross_entropy(hidden, weight, targets, chunk=10)
        expected = F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")
    torch.testing.assert_close(total, expected, rtol=1e-3, atol=0.0)
    total.backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_the_operator_is_well_formed(needs_gradient):
    """torch's own checks: schema, fake tensors, autograd registration, dynamic shapes."""
    hidden, weight, targets, loss_weight = sample(torch.float64, weighted=True)
    operator = torch.ops.foundry.linear_cross_entropy.default
    if not needs_gradient:
        hidden, weight = hidden.detach(), weight.detach()
    torch.library.opcheck(operator, (hidden, weight, targets, loss_weight, 10, needs_gradient))


def test_all_logits_are_never_there(monkeypatch):
    sizes = []
    log_softmax = F.log_softmax
    monkeypatch.setattr(F, "log_softmax", lambda logits, dim: sizes.append(logits.shape) or log_softmax(logits, dim))
    hidden, weight, targets, _ = sample(torch.float32, weighted=False)
    linear_cross_entropy(hidden, weight, targets, chunk=10)
    assert sizes == [(10, V)] * 3 + [(7, V)]


def test_without_gradients_none_are_made():
    hidden, weight, targets, _ = sample(torch.float32, weighted=False)
    with torch.no_grad():
        total = linear_cross_entropy(hidden, weight, targets, chunk=10)
    torch.testing.assert_close(total, plain(hidden, weight, targets, None).detach())
    assert not total.requires_grad
    only_weight = linear_cross_entropy(hidden.detach(), weight, targets, chunk=10)
    (gradient,) = torch.autograd.grad(only_weight, (weight,))
    assert gradient.abs().sum() > 0
