"""What a step makes of its rows: the objective, what it may use of the training, and what of it is reported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foundry.core.contracts import Aux, Batch, ObjectiveContext, Params, PluginError
from foundry.core.model.head import Head


class NextToken(nn.Module):
    """The loss of slot `loss` on the tokens that follow: a `foundry.core.contracts.Objective`."""

    def __init__(self, params: Params, context: ObjectiveContext) -> None:
        super().__init__()
        self.loss = context.loss

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Aux]:
        def read(hidden: Tensor, head: Head, aux: Aux) -> tuple[Tensor, Tensor, Aux]:
            total, count, of_loss = self.loss(hidden, head, batch)
            return total, count, {**aux, **of_loss}

        # Nothing that counts sees the padding behind a text: attention needs not know of it, what counts tokens does.
        answer: Any = model(
            batch.tokens, positions=batch.positions, segments=batch.segments, is_token=batch.is_token, read=read
        )
        total, count, aux = answer[0]
        return total, count, aux


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
