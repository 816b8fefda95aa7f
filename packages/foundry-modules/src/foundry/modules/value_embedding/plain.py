"""Plain texts of value embeddings, see `foundry.core.contracts.plain_text`."""

import torch
from torch import Tensor, nn

from foundry.core.contracts.plain_text import Config, dims, settings, spec


class Table(nn.Module):
    """A second embedding of the token, added to the attention's values."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, spec.attention.value_size(dims))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.table(ids)


class Gated(nn.Module):
    """A second embedding of the token, added to the attention's values, times a gate for each of their heads."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, spec.attention.value_size(dims))
        self.heads = max(1, spec.attention.value_size(dims) // dims.head_dim)
        self.gate = nn.Linear(settings.gate_channels, self.heads, bias=False)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        gates = 2 * torch.sigmoid(self.gate(x[..., : settings.gate_channels]))
        values = self.table(ids).unflatten(-1, (self.heads, -1))
        return (gates[..., None] * values).flatten(-2)
