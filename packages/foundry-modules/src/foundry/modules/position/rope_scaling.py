"""Stretching rotary positions to `factor` times the context that a model was trained on.

Each function takes the angular frequencies w (D/2,), highest first, in radians per token, and gives those to use
instead, and the factor on sines and cosines. The names and the results are those of `ROPE_INIT_FUNCTIONS` in
transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foundry.modules.position import LinearScaling, Llama3Scaling, NTKScaling, YaRNScaling


def linear(w: Tensor, scaling: LinearScaling, theta: float, original: float) -> tuple[Tensor, float]:
    """Position interpolation (Chen et al., 2023, arXiv:2306.15595): token t is rotated as t / factor was."""
    return w / scaling.factor, 1.0


def ntk(w: Tensor, scaling: NTKScaling, theta: float, original: float) -> tuple[Tensor, float]:
    """NTK-aware (bloc97, 2023; arXiv:2309.00071, 3.1): theta is multiplied by factor^(D / (D - 2)), so that the lowest
    frequency is divided by `factor` and the highest stays."""
    size = 2 * len(w)
    if size == 2:  # one pair: its frequency is 1 whatever theta is
        return w, 1.0
    pairs = torch.arange(0, size, 2, dtype=w.dtype, device=w.device)
    return (theta * scaling.factor ** (size / (size - 2))) ** (-pairs / size), 1.0


def yarn(w: Tensor, scaling: YaRNScaling, theta: float, original: float) -> tuple[Tensor, float]:
    """YaRN (Peng et al., 2023, arXiv:2309.00071): frequencies that turn more than `beta_fast` times in the original
    context stay, those that turn less than `beta_slow` times are interpolated, and between them lies a ramp over the
    pairs. The factor on sines and cosines is the square root of the paper's 1 / temperature."""
    size = 2 * len(w)

    def pair_that_turns(times: float) -> float:
        return size * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    pairs = torch.arange(len(w), dtype=w.dtype, device=w.device)
    interpolated = ((pairs - first) / ((last - first) or 0.001)).clamp(0, 1)
    return w * (1 - interpolated) + w / scaling.factor * interpolated, attention_factor(scaling)


def attention_factor(scaling: YaRNScaling) -> float:
    """What sines and cosines are multiplied by: 1 + 0.1 ln(factor), or the quotient of two such terms where both
    mscales are given (DeepSeek-V2, arXiv:2405.04434)."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return mscale_of(scaling.factor, scaling.mscale) / mscale_of(scaling.factor, scaling.mscale_all_dim)
    return mscale_of(scaling.factor)


def mscale_of(factor: float, weight: float = 1.0) -> float:
    return 1.0 + 0.1 * weight * math.log(factor) if factor > 1 else 1.0


def llama3(w: Tensor, scaling: Llama3Scaling, theta: float, original: float) -> tuple[Tensor, float]:
    """Llama 3.1 (arXiv:2407.21783): frequencies that turn more than `high_freq_factor` times in the original context
    stay, those that turn less than `low_freq_factor` times are interpolated, and between them both are mixed in
    proportion to the number of turns."""
    turns = original * w / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return w * kept + w / scaling.factor * (1 - kept), 1.0


SCALINGS: dict[str, Callable[[Tensor, Any, float, float], tuple[Tensor, float]]] = {
    "linear": linear,
    "ntk": ntk,
    "yarn": yarn,
    "llama3": llama3,
}
