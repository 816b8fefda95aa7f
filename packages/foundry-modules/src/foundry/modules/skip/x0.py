"""Residual scalars (modded-nanogpt, 2024; nanochat, 2026).

    x <- a_l x + b_l x_0          before layer l; x_0 are the embeddings, x and x_0 (B, T, C), a and b (n_layer,)

a starts at 1 and b at `initial`.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.skip import X0Params


class X0(nn.Module):
    roles: ClassVar = {"stream": "gain", "embedded": "gain"}

    def __init__(self, params: X0Params, dims: Dims) -> None:
        super().__init__()
        self.stream = nn.Parameter(torch.empty(dims.n_layer))
        self.embedded = nn.Parameter(torch.empty(dims.n_layer))
        self.initial = params.initial

    def forward(self, x: Tensor, embedded: Tensor, layer: int) -> Tensor:
        return (self.stream[layer] * x + self.embedded[layer] * embedded).to(x.dtype)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        tensor.fill_(1.0 if name == "stream" else self.initial)
        return True
