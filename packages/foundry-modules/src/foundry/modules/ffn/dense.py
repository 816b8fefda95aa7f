"""The position-wise feed-forward network (Vaswani et al., 2017, arXiv:1706.03762), gated where its activation is
(Shazeer, 2020, arXiv:2002.05202).

    y = W_down act(W_up x)            or            y = W_down act(W_gate x, W_up x)

x, y (B, T, C); hidden (B, T, F).
"""

import inspect
import math

import torch
from torch import Tensor, nn

from foundry.core.contracts import Aux, Context, Dims
from foundry.modules.ffn import DenseParams


class Dense(nn.Module):
    def __init__(self, params: DenseParams, dims: Dims, activation: nn.Module) -> None:
        super().__init__()
        gated = len(inspect.signature(activation.forward).parameters) == 2  # act(gate, up), not act(up)
        hidden = params.hidden or (8 * math.ceil(dims.n_embd / 3) if gated else 4 * dims.n_embd)
        self.gate_proj = nn.Linear(dims.n_embd, hidden, bias=dims.bias) if gated else None
        self.up_proj = nn.Linear(dims.n_embd, hidden, bias=dims.bias)
        self.down_proj = nn.Linear(hidden, dims.n_embd, bias=dims.bias)
        self.activation = activation
        self.residual_std = 0.02 / math.sqrt(2 * dims.n_layer)  # GPT-2: 2 n_layer sums into the residual stream

    def forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        if self.gate_proj is None:
            hidden = self.activation(self.up_proj(x))
        else:
            hidden = self.activation(self.gate_proj(x), self.up_proj(x))
        return self.down_proj(hidden), {}

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        if name != "down_proj.weight":
            return False
        tensor.normal_(0.0, self.residual_std, generator=generator)
        return True
