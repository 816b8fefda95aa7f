"""The model and its loss as one module: what is compiled, and what DDP wraps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foundry.core.contracts import Aux, Batch, Context, PluginError
from foundry.core.model import GPT


class Objective(nn.Module):
    """Batch -> (sum of token losses, number of supervised tokens, aux), ready for backward.

    Losses and figures in aux are 0-D: the sum over rows of what is said of each, times its supervised tokens. So sums
    over parts of a batch are the batch's, however it is cut into micro-batches and ranks.
    """

    def __init__(self, model: GPT, loss: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Aux]:
        # Nothing that counts sees the padding behind a text: attention needs not know of it, what counts tokens does.
        ctx = Context(batch.positions, batch.segments, is_token=batch.is_token)
        hidden, model_aux = self.model.hidden(batch.tokens, ctx)
        total, count, loss_aux = self.loss(hidden, self.model.head, batch)
        tokens = supervised_tokens(batch)
        return total, count, {name: _summed(name, each, tokens) for name, each in {**model_aux, **loss_aux}.items()}


def supervised_tokens(batch: Batch) -> Tensor:
    """How much each row counts, (B,): the sum of its loss weights."""
    if batch.loss_weight is None:
        return torch.full(batch.targets.shape[:1], float(batch.targets.size(1)), device=batch.targets.device)
    weight: Tensor = batch.loss_weight.sum(dim=1)
    return weight


def _summed(name: str, value: Tensor, tokens: Tensor) -> Tensor:
    """`value` as `contracts.Aux` has it, and `tokens` (B,) of each row -> counts as they are, the rest summed."""
    if name.endswith(("_count", "_load")):
        return value
    if value.ndim and value.shape != tokens.shape:
        raise PluginError(
            f"{name} has the shape {tuple(value.shape)}, in a forward pass of {len(tokens)} rows",
            f"report one number for each row, ({len(tokens)},), or a mean over all tokens, 0-D",
        )
    return (value * tokens).sum()
