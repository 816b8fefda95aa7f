"""Value embeddings with gates (nanochat, 2026).

    v_t <- v_t + 2 sigmoid(W x_t[:G]) * table[id_t]          W (H_kv, G), one gate for the D entries of each head

x_t (C,) is what the attention reads; table.weight (V, H_kv D). W starts at zero, where each gate is 1.
"""

import torch
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.kernels import Linear
from foundry.modules.value_embedding import GatedParams


class Gated(nn.Module):
    def __init__(self, params: GatedParams, dims: Dims, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(dims.vocab_size, size)
        heads = size // dims.head_dim if size % dims.head_dim == 0 else 1  # values of another width have one gate
        self.gate_channels = params.gate_channels
        self.gate = Linear(params.gate_channels, heads, bias=False)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        gates = 2 * torch.sigmoid(self.gate(x[..., : self.gate_channels]))
        values = self.table(ids).unflatten(-1, (gates.size(-1), -1))
        return (gates[..., None] * values).flatten(-2).to(x.dtype)

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> bool:
        if name != "gate.weight":
            return False
        tensor.zero_()
        return True
