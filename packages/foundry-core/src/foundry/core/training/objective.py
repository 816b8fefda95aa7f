"""What a step makes of its rows: the objective, what it may use of the training, and what of it is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foundry.core.blame import answers_for
from foundry.core.contracts import Aux, Batch, Dims, InvalidData, ObjectiveContext, Params, PluginError
from foundry.core.generate import Sampling, generate_ids
from foundry.core.model import GPT, Head, model_of
from foundry.core.model.gpt import Reader, logits
from foundry.core.model.init import materialize
from foundry.core.training.building import fill
from foundry.core.training.device import Device

if TYPE_CHECKING:
    from foundry.core.config import Experiment


class NextToken(nn.Module):
    """The loss of slot `loss` on the tokens that follow: a `foundry.core.contracts.Objective`."""

    def __init__(self, params: Params, context: ObjectiveContext) -> None:
        super().__init__()
        self.loss, self.context = context.loss, context

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Aux]:
        def read(hidden: Tensor, head: Head, aux: Aux) -> tuple[Tensor, Tensor, Aux]:
            total, count, of_loss = self.loss(hidden, head, batch)
            return total, count, {**aux, **of_loss}

        total, count, aux = self.context.forward(model, batch, read)
        return total, count, aux


@dataclass(frozen=True)
class TrainingContext:
    """An `ObjectiveContext`: a training before its first step, as an objective may use it.

    Args:
        began_with: the sha256 of the weights of `init_from` that a training which goes on began with; None where it
            begins, or began with its seed's.
    """

    experiment: Experiment
    model: GPT
    device: Device
    began_with: str | None = None

    @property
    def dims(self) -> Dims:
        return self.model.dims

    @cached_property
    def loss(self) -> nn.Module:
        made: nn.Module = self.experiment.registry.build("loss", self.experiment.training.loss, self.dims)
        return made

    def reference(self) -> nn.Module:
        """See `ObjectiveContext`."""
        model = model_of(self.experiment, self.dims.vocab_size, "meta")
        materialize(model, self.device.torch)
        origin = fill(model, self.experiment, None, source="")
        if origin and self.began_with not in (None, origin.sha256):
            raise InvalidData(
                f"{origin.run} no longer has the weights that this training started with and still needs",
                "restore them, or train anew with --resume never",
            )
        return model.requires_grad_(False).eval()

    def forward(self, model: nn.Module, batch: Batch, read: Reader = logits) -> Any:
        """See `ObjectiveContext`."""
        # Nothing that counts sees the padding behind a text: attention needs not know of it, what counts tokens does.
        said, _ = model(
            batch.tokens, positions=batch.positions, segments=batch.segments, is_token=batch.is_token, read=read
        )
        return said

    def generate(self, prompt: Tensor, max_tokens: int, *, seeds: Sequence[int], temperature: float = 1.0) -> Tensor:
        """See `ObjectiveContext`."""
        was_training = self.model.training
        try:
            return torch.stack(
                list(generate_ids(self.model, prompt, max_tokens, Sampling(temperature), seed=seeds)), dim=1
            )
        finally:
            self.model.train(was_training)


def build_objective(context: TrainingContext) -> nn.Module:
    """What a step makes of its rows. Nothing of its own is trained.

    Raises:
        PluginError: a plugin's objective cannot be made, or is no module.
    """
    experiment, choice = context.experiment, context.experiment.training.objective
    made = experiment.registry.build("objective", choice, context)
    with answers_for(type(made)):
        objective: nn.Module = made.to(context.device.torch).requires_grad_(False)
    return objective


def summed(aux: Aux, batch: Batch) -> Aux:
    """What is reported of a batch, such that sums over the parts of a step are the step's, however it is cut into
    micro-batches and ranks. Losses and figures become 0-D: the sum over rows of what is said of each, times its
    supervised tokens. Counts stay as they are.

    Raises:
        PluginError: a loss or figure is neither one number for each row nor 0-D.
    """
    tokens = supervised_tokens(batch)
    return {name: _summed(name, each, tokens) for name, each in aux.items()}


def supervised_tokens(batch: Batch) -> Tensor:
    """How much each row counts, (B,): the sum of its loss weights."""
    if batch.loss_weight is None:
        return torch.full(batch.targets.shape[:1], float(batch.targets.size(1)), device=batch.targets.device)
    weight: Tensor = batch.loss_weight.sum(dim=1)
    return weight


def _summed(name: str, value: Tensor, tokens: Tensor) -> Tensor:
    """`value` as `contracts.Aux` has it, and `tokens` (B,) of each row."""
    if name.endswith(("_count", "_load")):
        return value
    if value.ndim and value.shape != tokens.shape:
        raise PluginError(
            f"{name} has the shape {tuple(value.shape)}, in a forward pass of {len(tokens)} rows",
            f"report one number for each row, ({len(tokens)},), or a mean over all tokens, 0-D",
        )
    return (value * tokens).sum()
