"""What every objective must do."""

from typing import Any

import torch
from torch import Tensor, nn

from foundry.core.config import from_plain
from foundry.core.contracts import Batch
from foundry.core.model import GPT, initialize, model_of
from foundry.core.model.promises import PROMISES
from foundry.core.testing.case import SEED, Case
from foundry.core.testing.checks.losses import rows_of
from foundry.core.testing.rounding import assert_rounded, sums_of
from foundry.core.training.device import REFERENCE, Device
from foundry.core.training.objective import TrainingContext, summed

CHECKS = (
    "sum_count_and_aux",
    "gradients",
    "tells_the_model_of_its_tokens",
    "micro_batches_add_up",
    "follows_from_rows_and_weights",
)
BASIC = "sum_count_and_aux"


def sum_count_and_aux(case: Case) -> None:
    """A finite sum that comes of the model, how many tokens it is of, and beside them numbers for each row or for all;
    of plain rows, of which Batch says nothing more, and of rows that hold several documents and padding."""
    for batch in (plain_rows(case), packed_rows(case)):
        objective, model = training(case)
        answer = objective(model, batch)
        (promise,) = PROMISES["objective"]
        fault = promise.broken("objective", answer, (model, batch))
        assert not fault, fault
        total, count, _ = answer
        assert total.isfinite(), f"the sum is {float(total)}"
        assert count > 0, f"the sum is of {float(count)} tokens"
        assert total.requires_grad, "the sum has no gradient: it comes of no call of the model"


def gradients(case: Case) -> None:
    """The model gets gradients, and all of them are finite."""
    objective, model = training(case)
    batch = packed_rows(case)
    total, _, aux = objective(model, batch)
    losses = [value for name, value in summed(aux, batch).items() if name.endswith("_loss")]
    sum(losses, start=total).backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert any(gradient.any() for gradient in found.values()), "the gradient of every weight is 0"
    infinite = [name for name, gradient in found.items() if not gradient.isfinite().all()]
    assert not infinite, f"the gradient of {infinite[0]} is not finite"


def tells_the_model_of_its_tokens(case: Case) -> None:
    """A model that reads the batch's own rows is told their positions, their documents and what only fills them up, as
    `context.forward` does."""
    objective, model = training(case)
    batch = packed_rows(case)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for reader in (model, *(each for each in objective.modules() if isinstance(each, GPT))):
        reader.register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    objective(model, batch)
    for args, said in calls:
        if not _equal(said["ids"] if "ids" in said else args[0], batch.tokens):
            continue
        known = ("positions", "segments", "is_token")
        unsaid = [name for name in known if not _equal(said.get(name), getattr(batch, name))]
        assert not unsaid, f"a model reads the batch without its {' and '.join(unsaid)}; call context.forward"


def micro_batches_add_up(case: Case) -> None:
    """Sums and counts over parts of a batch add up to the batch's, and so does what is reported beside them."""
    objective, model = training(case)
    if any(getattr(each, "reads_whole_batch", False) for each in objective.modules()):
        return
    batch = packed_rows(case)
    whole = _sums(objective, model, batch)
    first, last = (_sums(objective, model, rows_of(batch, rows)) for rows in (slice(0, 2), slice(2, 4)))
    for name, value in whole.items():
        try:
            assert_rounded(first[name] + last[name], value, *sums_of(model), batch.tokens.numel())
        except AssertionError as error:
            raise AssertionError(f"{name} of two halves of a batch is not that of the batch: {error}") from None


def follows_from_rows_and_weights(case: Case) -> None:
    """The same rows and weights give the same bits: whatever was trained on before, which a resumed training has not
    seen, and whatever torch's own generator would draw."""
    batch = packed_rows(case)
    objective, model = training(case)
    torch.manual_seed(SEED)
    first = _sums(objective, model, batch)
    again, anew = _sums(objective, model, batch), _sums(*training(case), batch)
    for result, words in ((again, "asked again"), (anew, "made anew")):
        changed = [name for name, value in first.items() if not torch.equal(value, result[name])]
        assert not changed, f"{words}, it gives another {changed[0]} for the same rows and weights"


def training(case: Case) -> tuple[nn.Module, GPT]:
    """The objective, and the model that it trains, some steps after the beginning: a reference has other weights."""
    dims = case.dims
    sizes = {name: getattr(dims, name) for name in ("n_layer", "n_head", "n_embd", "head_dim", "block_size")}
    experiment = from_plain({"model_args": sizes, "seed": SEED})
    model = model_of(experiment, dims.vocab_size)
    initialize(model, SEED + 1)
    device = Device("cpu", "", "fp32", threads=1, compile=False, kernels=REFERENCE)
    objective = case.build(TrainingContext(experiment, model, device))
    assert isinstance(objective, nn.Module), f"{type(objective).__name__} is no nn.Module"
    return objective.requires_grad_(False), model.train()


def plain_rows(case: Case) -> Batch:
    """Four rows, each one piece of one document."""
    shape = (4, case.dims.block_size + 1)
    ids = torch.randint(case.dims.vocab_size, shape, generator=torch.Generator().manual_seed(SEED))
    return Batch(ids[:, :-1], ids[:, 1:])


def packed_rows(case: Case) -> Batch:
    """Four rows with two documents each. Of the first, some tokens are not learned; behind the second, the last row is
    filled up."""
    plain = plain_rows(case)
    numbers = torch.arange(case.dims.block_size).expand_as(plain.tokens)
    border = case.dims.block_size // 3
    is_token = torch.ones_like(numbers, dtype=torch.bool)
    is_token[-1, 2 * border :] = False
    learned = is_token & (numbers > 2)
    segments = (numbers >= border).int()
    return plain._replace(
        loss_weight=learned.float(), positions=numbers - border * segments, segments=segments, is_token=is_token
    )


def _sums(objective: nn.Module, model: GPT, batch: Batch) -> dict[str, Tensor]:
    """What is the step's when it is added up over micro-batches."""
    total, count, aux = objective(model, batch)
    reported = {"the sum": total, "the count": count, **summed(aux, batch)}
    return {name: value.detach().float() for name, value in reported.items()}


def _equal(said: Any, known: Tensor) -> bool:
    return isinstance(said, Tensor) and torch.equal(said, known)
