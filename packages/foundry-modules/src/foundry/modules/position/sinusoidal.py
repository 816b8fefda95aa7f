"""Sinusoidal positions (Vaswani et al., 2017, arXiv:1706.03762, 3.4 and 3.5).

    y_t = sqrt(C) x_t + p_t,   p_t[2 i] = sin(t w_i),  p_t[2 i + 1] = cos(t w_i),   w_i = 10000^(-2 i / C)

x, y (B, T, C). The factor sqrt(C) is the paper's: without it, embeddings of standard deviation 0.02 would drown in
waves of amplitude 1.
"""

import math

import torch
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.position import SinusoidalParams


class Sinusoidal(nn.Module):
    waves: Tensor

    def __init__(self, params: SinusoidalParams, dims: Dims) -> None:
        super().__init__()
        self.register_buffer("waves", torch.empty(dims.block_size, dims.n_embd), persistent=False)
        self.init_buffers()

    def init_buffers(self) -> None:
        positions = torch.arange(len(self.waves), device=self.waves.device)
        self.waves = self.waves_at(positions).to(self.waves.dtype)

    def waves_at(self, positions: Tensor) -> Tensor:
        """Positions (...) -> (..., C), in fp32."""
        n_embd = self.waves.size(1)
        pairs = torch.arange(0, n_embd, 2, dtype=torch.float32, device=positions.device)
        angles = positions[..., None].float() * 10_000.0 ** (-pairs / n_embd)
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)

    def embed(self, x: Tensor, positions: Tensor | None) -> Tensor:
        if positions is None and x.size(1) <= len(self.waves):
            waves = self.waves[: x.size(1)]
        else:
            waves = self.waves_at(torch.arange(x.size(1), device=x.device) if positions is None else positions)
        return math.sqrt(x.size(2)) * x + waves.to(x.dtype)
