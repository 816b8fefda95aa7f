"""The position-wise feed-forward network (Vaswani et al., 2017, arXiv:1706.03762), gated where its activation is
(Shazeer, 2020, arXiv:2002.05202).

    y = W_down act(W_up x)            or            y = W_down act(W_gate x, W_up x)

x, y (B, T, C); hidden (B, T, F).
"""

import torch
from torch import Tensor, nn

from foundry.core.contracts import Aux, Context, Dims
from foundry.kernels import Linear
from foundry.modules.ffn import DenseParams
from foundry.modules.ffn.decoding import DecodingStep


class Dense(nn.Module):
    def __init__(self, params: DenseParams, dims: Dims, activation: nn.Module, gated: bool) -> None:
        super().__init__()
        hidden = params.width(dims, gated)
        self.gate_proj = Linear(dims.n_embd, hidden, bias=dims.bias) if gated else None
        self.up_proj = Linear(dims.n_embd, hidden, bias=dims.bias)
        self.down_proj = Linear(hidden, dims.n_embd, bias=dims.bias)
        self.activation = activation
        self.residual_std = dims.residual_std

    def forward(self, x: Tensor, ctx: Context) -> tuple[Tensor, Aux]:
        inputs = [layer(x) for layer in (self.gate_proj, self.up_proj) if layer is not None]
        if ctx.mix is not None:
            inputs = list(ctx.mix(torch.cat(inputs, dim=-1)).chunk(len(inputs), dim=-1))
        return self.down_proj(self.activation(*inputs)), {}

    def decoding_step(self) -> DecodingStep | None:
        return DecodingStep.of(self)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        if name != "down_proj.weight":
            return False
        tensor.normal_(0.0, self.residual_std, generator=generator)
        return True
