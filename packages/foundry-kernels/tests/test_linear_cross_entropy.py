"""The chunked linear cross-entropy against the plain one, and what it promises beyond that."""

import math

import pytest
import torch
import torch.nn.functional as F

from foundry.kernels import linear_cross_entropy, rounding

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


def assert_equals_fp64(total, gradients, hidden, weight, targets, loss_weight, dtype):
    """The loss and its gradients, if there are any, computed in `dtype`, are those in fp64, but for what its rounding
    may come to: of logits, then of their softmax, of its products with hidden and weight, and of sums over tokens."""
    hidden, weight = (each.detach().double().requires_grad_() for each in (hidden, weight))
    expected = plain(hidden, weight, targets, loss_weight)
    exact = torch.autograd.grad(expected, (hidden, weight))
    hidden, weight, sums = hidden.detach().abs(), weight.detach().abs(), torch.promote_types(dtype, torch.float32)
    each = torch.ones(N, 1).double() if loss_weight is None else loss_weight[:, None].double()
    logits = (hidden @ weight.T).amax(1, keepdim=True)
    in_losses = 2 * rounding.rounding(dtype, C) * logits + rounding.rounding(sums, V + rounding.FUNCTION) * (1 + logits)
    bound = (each * (in_losses + rounding.rounding(sums, N) * (2 * logits + math.log(V)))).sum()
    assert rounding.excess(total, expected, bound) <= 1
    of_logits = 2 * each.expand(N, V)  # w (p - e_target), or less
    in_of_logits = of_logits * (in_losses.expm1() + rounding.rounding(dtype, rounding.FUNCTION))
    bounds = (
        in_of_logits @ weight + rounding.rounding(dtype, V) * (of_logits @ weight),
        in_of_logits.T @ hidden + rounding.rounding(dtype, N) * (of_logits.T @ hidden),
    )
    for mine, theirs, bound in zip(gradients, exact, bounds, strict=False):
        assert mine.dtype == dtype
        assert rounding.excess(mine, theirs, bound) <= 1


@pytest.mark.parametrize("chunk", [1, 10, N, 1000])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_value_and_gradients_equal_the_plain_ones(dtype, weighted, chunk):
    hidden, weight, targets, loss_weight = sample(dtype, weighted)
    total = linear_cross_entropy(hidden, weight, targets, loss_weight, chunk=chunk)
    gradients = torch.autograd.grad(3 * total, (hidden, weight))
    assert_equals_fp64(total, [each / 3 for each in gradients], hidden, weight, targets, loss_weight, dtype)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(weighted):
    hidden, weight, targets, loss_weight = sample(torch.float64, weighted)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, loss_weight, chunk=10), (hidden, weight)
    )


def test_bf16_sums_in_fp32():
    hidden, weight, targets, _ = sample(torch.bfloat16, weighted=False)
    total = linear_cross_entropy(hidden, weight, targets, chunk=10)
    assert total.dtype == torch.float32
    gradients = torch.autograd.grad(total, (hidden, weight))
    assert_equals_fp64(total, gradients, hidden, weight, targets, None, torch.bfloat16)


def test_autocast_multiplies_in_bf16_as_a_linear_layer_does():
    hidden, weight, targets, _ = sample(torch.float32, weighted=False)
    with torch.autocast("cpu", torch.bfloat16):
        total = linear_cross_entropy(hidden, weight, targets, chunk=10)
    as_bf16 = hidden.bfloat16(), weight.bfloat16()
    assert_equals_fp64(total, [], *as_bf16, targets, None, torch.bfloat16)
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
    assert_equals_fp64(total, [], hidden, weight, targets, None, torch.float32)
    assert not total.requires_grad
    only_weight = linear_cross_entropy(hidden.detach(), weight, targets, chunk=10)
    (gradient,) = torch.autograd.grad(only_weight, (weight,))
    assert gradient.abs().sum() > 0
