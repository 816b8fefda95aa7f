"""What every loss must do."""

import torch
from torch import Tensor

from foundry.core.contracts import Batch
from foundry.core.model import Head
from foundry.core.testing.case import SEED, Case, vectors
from foundry.core.testing.rounding import assert_rounded, sums_of

CHECKS = ("total_and_count", "micro_batches_add_up", "unsupervised_tokens_do_not_count", "gradients", "compile")


def total_and_count(case: Case) -> None:
    """A finite sum, the number of supervised tokens, and beside them numbers for each row or for all; with a
    soft-capped head too."""
    hidden, batch = sample(case)
    for softcap in (None, 5.0):
        total, count, aux = case.build(case.dims)(hidden, head_of(case, softcap), batch)
        assert total.shape == count.shape == ()
        assert total.isfinite()
        assert int(count) == batch.targets.numel()
        assert all(value.shape in ((), batch.targets.shape[:1]) for value in aux.values())


def micro_batches_add_up(case: Case) -> None:
    """Sums and counts over parts of a batch add up to the batch's, and so do losses beside them, by supervised tokens.
    Nothing of a part may be supervised."""
    hidden, batch = sample(case, weighted=True)
    batch.loss_weight[2:] = 0
    loss, head = case.build(case.dims), head_of(case)
    total, count, aux = loss(hidden, head, batch)
    parts = [loss(hidden[rows], head, rows_of(batch, rows)) for rows in (slice(0, 2), slice(2, 4))]
    for name, value in aux.items():
        tokens = batch.loss_weight.sum(1)
        pieces = [(part[2][name] * of_part).sum() for part, of_part in zip(parts, tokens.split(2), strict=True)]
        assert_rounded(sum(pieces), (value * tokens).sum(), *_sums(head, batch))
    assert_rounded(sum(part[0] for part in parts), total, *_sums(head, batch))
    assert_rounded(sum(part[1] for part in parts), count, batch.targets.numel())


def unsupervised_tokens_do_not_count(case: Case) -> None:
    """Where loss_weight is 0, neither the target nor what the model made of it matters. All ones is as None."""
    hidden, batch = sample(case, weighted=True)
    loss, head = case.build(case.dims), head_of(case)
    total, count, _ = loss(hidden, head, batch)
    assert int(count) == int(batch.loss_weight.sum())
    ignored = batch.loss_weight == 0
    others = torch.where(ignored, (batch.targets + 1) % case.dims.vocab_size, batch.targets)
    changed = torch.where(ignored[..., None], -hidden, hidden)
    assert_rounded(loss(changed, head, batch._replace(targets=others))[0], total, *_sums(head, batch))
    ones, nothing = batch._replace(loss_weight=torch.ones_like(batch.loss_weight)), batch._replace(loss_weight=None)
    assert_rounded(loss(hidden, head, ones)[0], loss(hidden, head, nothing)[0], *_sums(head, batch))


def gradients(case: Case) -> None:
    """The hidden states and the head get finite gradients, and a step against them lowers the loss."""
    hidden, batch = sample(case)
    hidden.requires_grad_()
    loss, head = case.build(case.dims), head_of(case)
    total, _, _ = loss(hidden, head, batch)
    total.backward()
    assert hidden.grad is not None
    assert head.weight.grad is not None
    assert hidden.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()
    with torch.no_grad():
        assert loss(hidden - 0.01 * hidden.grad, head, batch)[0] < total


def compile(case: Case) -> None:
    """torch.compile sees one graph, and gets the same result."""
    hidden, batch = sample(case)
    loss, head = case.build(case.dims), head_of(case)
    torch.compiler.reset()
    compiled = torch.compile(lambda hidden, batch: loss(hidden, head, batch)[0], backend="eager", fullgraph=True)
    assert_rounded(compiled(hidden, batch), loss(hidden, head, batch)[0], *_sums(head, batch))


def _sums(head: Head, batch: Batch) -> list[int]:
    """A logit's, that of the logits of a token, and that of all losses."""
    return [*sums_of(head), head.weight.size(0), batch.targets.numel()]


def sample(case: Case, weighted: bool = False) -> tuple[Tensor, Batch]:
    """Four rows of hidden states and targets; `weighted`: a third of the tokens is not supervised."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (4, case.dims.block_size)
    tokens = torch.randint(case.dims.vocab_size, shape, generator=generator)
    targets = torch.randint(case.dims.vocab_size, shape, generator=generator)
    weight = (torch.rand(shape, generator=generator) > 1 / 3).float() if weighted else None
    return vectors(*shape, case.dims), Batch(tokens, targets, weight)


def rows_of(batch: Batch, rows: slice) -> Batch:
    return Batch(*(None if field is None else field[rows] for field in batch))


def head_of(case: Case, softcap: float | None = None) -> Head:
    head = Head(case.dims.n_embd, case.dims.vocab_size, softcap)
    torch.nn.init.normal_(head.weight, std=0.5, generator=torch.Generator().manual_seed(SEED))
    return head
