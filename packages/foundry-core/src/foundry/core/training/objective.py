"""The model and its loss as one module: what is compiled, and what DDP wraps."""

from __future__ import annotations

from torch import Tensor, nn

from foundry.core.contracts import Aux, Batch, Context
from foundry.core.model import GPT


class Objective(nn.Module):
    """Batch -> (sum of token losses, number of supervised tokens, aux), all 0-D, ready for backward."""

    def __init__(self, model: GPT, loss: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Aux]:
        # Nothing that counts sees the padding behind a text: attention needs not know of it, what counts tokens does.
        ctx = Context(batch.positions, batch.segments, is_token=batch.is_token)
        hidden, model_aux = self.model.hidden(batch.tokens, ctx)
        total, count, loss_aux = self.loss(hidden, self.model.head, batch)
        return total, count, {**model_aux, **loss_aux}
