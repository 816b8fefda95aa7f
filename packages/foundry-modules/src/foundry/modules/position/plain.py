"""Plain texts of positions, see `foundry.core.contracts.plain_text`."""

import math

import torch
from torch import Tensor, nn

from foundry.core.contracts.plain_text import Config, dims, settings


class RoPE(nn.Module):
    """Rotate the pairs (a_i, b_i) of a head's vector by t w_i at position t: a is its first half, b its second."""

    cos: Tensor  # (block_size, entries)
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        size = int(dims.head_dim * settings.fraction)  # entries of a head that are rotated
        w = settings.theta ** (-torch.arange(0, size, 2) / size)  # radians per token
        if settings.scaling is not None:  # the context is `factor` times as long as what was trained before
            factor = settings.scaling.factor
            if settings.scaling.type == "linear":
                w = w / factor
            if settings.scaling.type == "ntk":  # the lowest frequency is divided by the factor, the highest stays
                w = (settings.theta * factor ** (size / (size - 2))) ** (-torch.arange(0, size, 2) / size)
            if (
                settings.scaling.type == "llama3"
            ):  # what turns often in the old context stays, what turns seldom is slower
                turns = (settings.scaling.original_block_size or dims.block_size / settings.scaling.factor) * w
                low, high = settings.scaling.low_freq_factor, settings.scaling.high_freq_factor
                kept = ((turns / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
                w = w * kept + w / factor * (1 - kept)
            if settings.scaling.type == "yarn":  # pairs before the first stay, those after the last are slower
                original = settings.scaling.original_block_size or dims.block_size / settings.scaling.factor
                first, last = (
                    size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(settings.theta))
                    for turns in (settings.scaling.beta_fast, settings.scaling.beta_slow)
                )
                if settings.scaling.truncate:
                    first, last = math.floor(first), math.ceil(last)
                first, last = max(first, 0), min(last, size - 1)
                slower = ((torch.arange(len(w)) - first) / ((last - first) or 0.001)).clamp(0, 1)
                w = w * (1 - slower) + w / factor * slower
        angles = torch.arange(config.block_size)[:, None] * w
        cos, sin = angles.cos(), angles.sin()
        if settings.scaling is not None and settings.scaling.type == "yarn":  # attention is sharpened
            scale = settings.scaling.attention_factor or 1.0 + 0.1 * math.log(settings.scaling.factor)
            cos, sin = scale * cos, scale * sin
        self.register_buffer("cos", torch.cat((cos, cos), dim=-1), persistent=False)
        self.register_buffer("sin", torch.cat((-sin, sin), dim=-1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, H, T, D) -> the same."""
        cos, sin = self.cos[: x.size(2)], self.sin[: x.size(2)]
        if settings.fraction == 1:
            return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)  # (a, b) cos + (b, a) (-sin, sin)
        else:
            x, kept = x.split((cos.size(-1), x.size(-1) - cos.size(-1)), dim=-1)
            x = torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)  # (a, b) cos + (b, a) (-sin, sin)
            return torch.cat((x, kept), dim=-1)


class ALiBi(nn.Module):
    """Lower a score by slope * distance; each head has a slope of its own."""

    slopes: Tensor  # (H,)

    def __init__(self, config: Config) -> None:
        super().__init__()
        power = 1 << (config.n_head.bit_length() - 1)  # the largest power of two <= n_head
        slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
        slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (config.n_head - power), 2)]
        self.register_buffer("slopes", torch.tensor(slopes), persistent=False)

    def forward(self, length: int) -> Tensor:
        """The bias (H, T, T) of so many tokens."""
        place = torch.arange(length, device=self.slopes.device)
        return self.slopes[:, None, None] * (place - place[:, None])


class Learned(nn.Module):
    """Add a learned vector per position."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.wpe = nn.Embedding(config.block_size, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.wpe.weight[: x.size(1)]


class Sinusoidal(nn.Module):
    """Add sines and cosines of the position."""

    waves: Tensor  # (block_size, C)

    def __init__(self, config: Config) -> None:
        super().__init__()
        w = 10_000.0 ** (-torch.arange(0, config.n_embd, 2) / config.n_embd)  # radians per token
        angles = torch.arange(config.block_size)[:, None] * w
        waves = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Embeddings begin small: without the factor they would drown in waves of amplitude 1.
        return math.sqrt(x.size(2)) * x + self.waves[: x.size(1)]


class NoPosition(nn.Module):
    """Order is known only through the causal mask."""
