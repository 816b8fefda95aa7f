"""Losses, optimizers and schedules against torch's and transformers'."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foundry.core.contracts import InvalidExperiment
from foundry.core.testing import DIMS, Case, assert_rounded, sums_of
from foundry.core.testing.checks.losses import head_of, sample
from foundry.core.testing.checks.optimizers import toy, train
from foundry.modules.optimizer.batched_muon import BatchedMuon
from foundry.modules.optimizer.muon import hidden_matrices


def loss_of(**params):
    return Case.of("loss", "cross_entropy", params).build(DIMS)


@pytest.mark.parametrize("params", [{}, {"chunk_tokens": 10}])
def test_the_sum_over_the_count_is_the_mean_cross_entropy(params):
    case = Case.of("loss", "cross_entropy", params)
    hidden, batch = sample(case)
    head = head_of(case)
    total, count, _ = loss_of(**params)(hidden, head, batch)
    expected = F.cross_entropy(head(hidden).flatten(0, 1), batch.targets.flatten())
    assert_rounded(total / count, expected, *sums_of(head), batch.targets.numel())


def test_a_chunked_loss_never_calls_a_plain_head():
    case = Case.of("loss", "cross_entropy")
    (hidden, batch), head = sample(case), head_of(case)
    calls = []
    head.register_forward_hook(lambda *_: calls.append(1))
    loss_of(chunk_tokens=10)(hidden, head, batch)
    assert calls == []
    capped = head_of(case, softcap=5.0)
    total, _, _ = loss_of(chunk_tokens=10)(hidden, capped, batch)
    assert_rounded(total, loss_of()(hidden, capped, batch)[0], *sums_of(capped), batch.targets.numel())


def test_z_loss_is_the_mean_square_of_the_log_partition():
    case = Case.of("loss", "cross_entropy")
    hidden, batch = sample(case, weighted=True)
    head = head_of(case)
    _, _, aux = loss_of(z_loss=0.1)(hidden, head, batch)
    squares = head(hidden).logsumexp(-1).square()
    expected = [0.1 * row[of_row > 0].mean() for row, of_row in zip(squares, batch.loss_weight, strict=True)]
    assert_rounded(aux["z_loss"], torch.stack(expected), *sums_of(head), head.weight.size(0), squares.size(1))


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_batched_muon_is_torchs(nesterov, capability, monkeypatch):
    """Also where it computes in fp32. Newton-Schulz in bf16 turns a rounding of the last bit into one of 2^-8 of the
    update, which is lr here."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    shapes = [(16, 16), (48, 16), (16, 16), (16, 40), (48, 16), (16, 16)]
    generator = torch.Generator().manual_seed(0)
    theirs = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    ours = [nn.Parameter(parameter.detach().clone()) for parameter in theirs]
    optimizers = [kind(p, lr=0.02, nesterov=nesterov) for kind, p in ((torch.optim.Muon, theirs), (BatchedMuon, ours))]
    for _ in range(5):
        for their_parameter, our_parameter in zip(theirs, ours, strict=True):
            their_parameter.grad = torch.randn(their_parameter.shape, generator=generator)
            our_parameter.grad = their_parameter.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for their_parameter, our_parameter in zip(theirs, ours, strict=True):
        torch.testing.assert_close(our_parameter, their_parameter, rtol=0, atol=0.02 * 5 * 2**-6)


def test_batched_muon_passes_over_what_has_no_gradient():
    matrices = [nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))]
    matrices[1].grad = torch.eye(4)
    BatchedMuon(matrices, lr=0.1).step()
    assert torch.equal(matrices[0], torch.ones(4, 4))
    assert not torch.equal(matrices[1], torch.ones(4, 4))


def test_muon_takes_the_matrices_of_the_layers_only():
    model = toy()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(matrix)] for matrix in hidden_matrices(model)] == [
        f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in (1, 3)
    ]
    of_matrices, of_the_rest = Case.of("optimizer", "muon", {"learning_rate": 0.03}).build(model, 0.001)
    assert [group["lr"] for group in of_matrices.param_groups] == [0.03]
    assert {group["lr"] for group in of_the_rest.param_groups} == {0.001}
    with pytest.raises(InvalidExperiment, match="no hidden matrices"):
        Case.of("optimizer", "muon").build(nn.Linear(3, 3), 0.001)


def test_adamw_is_torchs_and_spares_norms_and_biases():
    """With an eps that is large enough not to blow up the noise of gradients that are near 0."""
    ours, theirs, eps = toy(), toy(), 1e-3
    optimizers = Case.of("optimizer", "adamw", {"weight_decay": 0.5, "eps": eps}).build(ours, 0.01)
    decays = {
        parameter.ndim: group["weight_decay"] for group in optimizers[0].param_groups for parameter in group["params"]
    }
    assert decays == {2: 0.5, 1: 0.0}
    assert all(group["fused"] for group in optimizers[0].param_groups)
    two = [
        torch.optim.AdamW([p for p in theirs.parameters() if (p.ndim > 1) == many], 0.01, (0.9, 0.95), eps, wd)
        for many, wd in ((True, 0.5), (False, 0.0))
    ]
    train(ours, optimizers, steps=10)
    train(theirs, two, steps=10)
    for name, parameter in theirs.named_parameters():
        assert_rounded(ours.get_parameter(name), parameter, *sums_of(theirs, tokens=4 * 8) * 10)


def schedule(name, **params):
    return Case.of("schedule", name, params).build()


@pytest.mark.parametrize(
    ("ours", "name"), [("cosine", "get_cosine_schedule_with_warmup"), ("linear", "get_linear_schedule_with_warmup")]
)
def test_decays_equal_transformers_after_the_warmup(ours, name):
    transformers = pytest.importorskip("transformers")
    steps, warmup = 120, 30
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = getattr(transformers, name)(optimizer, warmup, steps)
    mine = schedule(ours, warmup=warmup, min_factor=0.0)
    for step in range(steps):
        if step >= warmup:
            assert mine(step, step / steps) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "constant"])
def test_a_warmup_rises_in_equal_parts_and_then_meets_the_curve(name):
    factors = [schedule(name, warmup=4)(step, step / 1000) for step in range(6)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], abs=1e-9)
    assert factors[5] == pytest.approx(1.0, abs=0.01)
    assert schedule(name, warmup=0)(0, 0.0) == 1.0


@pytest.mark.parametrize(("name", "params", "end"), [("cosine", {}, 0.1), ("linear", {}, 0.0), ("wsd", {}, 0.0)])
def test_the_end_is_the_minimum(name, params, end):
    assert schedule(name, **params)(999, 1.0) == pytest.approx(end, abs=1e-9)
    assert schedule(name, min_factor=0.25)(999, 1.0) == pytest.approx(0.25)


def test_wsd_stays_and_then_falls():
    wsd = schedule("wsd", warmup=10, decay=0.2, min_factor=0.1)
    assert wsd(500, 0.5) == wsd(799, 0.799) == 1.0
    assert wsd(900, 0.9) == pytest.approx(0.55)
    assert math.isclose(wsd(999, 1.0), 0.1)
