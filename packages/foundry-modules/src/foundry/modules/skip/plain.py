"""Plain texts of skips, see `foundry.core.contracts.plain_text`."""

import torch
from torch import Tensor, nn

from foundry.core.contracts.plain_text import Config, settings


class X0(nn.Module):
    """Before each layer, mix the embeddings into the stream again."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.stream = nn.Parameter(torch.ones(config.n_layer))
        self.embedded = nn.Parameter(torch.full((config.n_layer,), settings.initial))

    def forward(self, x: Tensor, embedded: Tensor, layer: int) -> Tensor:
        return self.stream[layer] * x + self.embedded[layer] * embedded
