"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864).

    (a_i, b_i) -> (a_i cos t w_i - b_i sin t w_i,  b_i cos t w_i + a_i sin t w_i),      w_i = theta^(-2 i / R)

at position t, where a is the first half of the R rotated entries of a head's vector and b the second (the pairing of
Llama in transformers, which differs from the paper's neighbours by a permutation of the projections' rows). R is
`fraction` of the head's width D, its first entries, as in GPT-NeoX. q (B, H, T, D), k (B, H_kv, T, D).
"""

import torch
from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.position import RoPEParams, rotary_dim
from foundry.modules.position.rope_scaling import SCALINGS, mscale_of


class RoPE(nn.Module):
    cos: Tensor  # (block_size, R): cosines twice
    sin: Tensor  # (block_size, R): sines with a minus, then sines

    def __init__(self, params: RoPEParams, dims: Dims) -> None:
        super().__init__()
        self.params, self.block_size = params, dims.block_size
        self.rotary_dim = rotary_dim(params, dims)
        self._frequencies: tuple[Tensor, float] | None = None  # of `frequencies`, on the device of the last positions
        self._made: tuple[Tensor, tuple[Tensor, Tensor]] | None = None  # see `waves_of`
        self.register_buffer("cos", torch.empty(dims.block_size, self.rotary_dim), persistent=False)
        self.register_buffer("sin", torch.empty(dims.block_size, self.rotary_dim), persistent=False)
        self.init_buffers()

    def init_buffers(self) -> None:
        if not self.cos.is_meta:  # there torch imports its compiler, which takes 2 s, for a power of a number
            self._tabulate(len(self.cos))

    def _tabulate(self, length: int) -> None:
        self.cos, self.sin = self.waves(torch.arange(length, device=self.cos.device), self.cos.dtype)

    def frequencies(self, device: torch.device) -> tuple[Tensor, float]:
        """w (R/2,) in radians per token, fp32, and the factor on sines and cosines."""
        pairs = torch.arange(0, self.rotary_dim, 2, dtype=torch.float32, device=device)
        w, scaling = self.params.theta ** (-pairs / self.rotary_dim), self.params.scaling
        if scaling is None:
            return w, 1.0
        original = scaling.original_block_size or self.block_size / scaling.factor
        return SCALINGS[scaling.type](w, scaling, self.params.theta, original)

    @property
    def score_factor(self) -> float:
        """What latent attention multiplies its scores with, of which this rotates a part only: DeepSeek's mscale of all
        dimensions, once for queries and once for keys (arXiv:2405.04434)."""
        weight = getattr(self.params.scaling, "mscale_all_dim", None)
        return mscale_of(self.params.scaling.factor, weight) ** 2 if self.params.scaling and weight else 1.0

    def waves(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`cos` and `sin` for positions (...): (..., R) each. Made in fp32 whatever the model's dtype: bf16 cannot tell
        position 256 from 257."""
        if self._frequencies is None or self._frequencies[0].device != positions.device:
            self._frequencies = self.frequencies(positions.device)
        w, factor = self._frequencies
        angles = positions[..., None].float() * w
        cos, sin = angles.cos(), angles.sin()
        if factor != 1:
            cos, sin = factor * cos, factor * sin
        cos, sin = cos.to(dtype), sin.to(dtype)
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        if positions is None:
            length = q.size(2)
            if length > len(self.cos):  # text longer than block_size
                self._tabulate(length)
            cos, sin = self.cos[:length].to(q.dtype), self.sin[:length].to(q.dtype)
        else:
            cos, sin = self.waves_of(positions, q.dtype)
        return rotated(q, cos, sin), rotated(k, cos, sin)

    def waves_of(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`waves` for positions (B, T), made once in a forward pass: every layer brings the same tensor. Made anew for
        each, they took a sixth of the time of decoding a token with 1 M parameters."""
        if torch.compiler.is_compiling():
            return self.waves(positions[:, None], dtype)
        made = self._made  # looked at once: another thread may be decoding other positions
        if made is not None and made[0] is positions:
            cos, sin = made[1]
            if cos.dtype == dtype and cos.is_inference() == torch.is_inference_mode_enabled():
                return cos, sin
        waves = self.waves(positions[:, None], dtype)
        self._made = positions, waves
        return waves


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[a, b] cos + [b, a] [-sin, sin]. On a CPU, forward and backward, three quarters of the time of two halves."""
    if cos.size(-1) < x.size(-1):
        turned, kept = x.split((cos.size(-1), x.size(-1) - cos.size(-1)), dim=-1)
        return torch.cat((rotated(turned, cos, sin), kept), dim=-1)
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)
