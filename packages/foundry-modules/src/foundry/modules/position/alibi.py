"""Attention with linear biases (Press, Smith and Lewis, 2021, arXiv:2108.12409).

    score(t, s) = q_t k_s / sqrt(D) - m_h (t - s)

The slopes m_h are 2^(-8 h / H), h = 1..H, where H is a power of two; otherwise those of the next smaller power n, then
every other one of 2 n heads. Positions (B, T) and (B, S) -> bias (B, H, T, S).
"""

import torch
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.position import ALiBiParams


class ALiBi(nn.Module):
    slopes: Tensor

    def __init__(self, params: ALiBiParams, dims: Dims) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.empty(dims.n_head), persistent=False)
        self.init_buffers()

    def init_buffers(self) -> None:
        slopes = slopes_of(self.slopes.numel())
        self.slopes = torch.tensor(slopes, dtype=self.slopes.dtype, device=self.slopes.device)

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = query_positions[:, None, :, None] - key_positions[:, None, None, :]
        return self.slopes[:, None, None] * -distance


def slopes_of(n_head: int) -> list[float]:
    power = 1 << (n_head.bit_length() - 1)  # the largest power of two <= n_head
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    return slopes + [2 ** (-4 * h / power) for h in range(1, 2 * (n_head - power), 2)]
