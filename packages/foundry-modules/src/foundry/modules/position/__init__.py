"""Slot `position`: how a model knows the order of its tokens. Built as `target(params, dims)`.

`acts_on` says where: on the embeddings, on queries and keys, on attention scores, or nowhere.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field

from foundry.core.contracts import Dims, Params, PositionParams, Variant


class _Scaling(Params):
    factor: float = Field(
        ge=1, le=1_048_576, description="how many times longer the context is than what was trained before"
    )
    original_block_size: int | None = Field(
        None, ge=1, le=16_777_216, description="tokens of the context that was trained; null: block_size / factor"
    )


class LinearScaling(_Scaling):
    """Position interpolation: every frequency divided by the factor (arXiv:2306.15595)."""

    type: Literal["linear"]


class NTKScaling(_Scaling):
    """NTK-aware: a larger theta, so that high frequencies stay (arXiv:2309.00071, 3.1)."""

    type: Literal["ntk"]


class YaRNScaling(_Scaling):
    """High frequencies stay, low ones are interpolated, and attention is sharpened (arXiv:2309.00071)."""

    type: Literal["yarn"]
    beta_fast: float = Field(32.0, gt=0, le=1e9, description="turns in the original context above which pairs stay")
    beta_slow: float = Field(1.0, gt=0, le=1e9, description="turns below which pairs are interpolated")
    mscale: float | None = Field(None, ge=0, le=1e3, description="DeepSeek's weight of ln(factor) in the numerator")
    mscale_all_dim: float | None = Field(None, ge=0, le=1e3, description="and in the denominator")
    attention_factor: float | None = Field(
        None, gt=0, le=1e3, description="factor on sines and cosines; null: from factor and the mscales"
    )
    truncate: bool = Field(True, description="round the ramp outwards to whole pairs")


class Llama3Scaling(_Scaling):
    """High frequencies stay, low ones are interpolated, those between are mixed (Llama 3.1, arXiv:2407.21783)."""

    type: Literal["llama3"]
    low_freq_factor: float = Field(1.0, gt=0, le=1e6, description="turns below which pairs are interpolated")
    high_freq_factor: float = Field(4.0, gt=0, le=1e6, description="turns above which pairs stay")


Scaling: TypeAlias = Annotated[LinearScaling | NTKScaling | YaRNScaling | Llama3Scaling, Field(discriminator="type")]


class RoPEParams(PositionParams):
    acts_on = "qk"
    theta: float = Field(10_000.0, gt=1, description="base of the wavelengths: the longest is about 2 pi theta tokens")
    fraction: float = Field(1.0, gt=0, le=1, description="share of a head that is rotated; the rest has no position")
    scaling: Scaling | None = Field(
        None, description="{type: linear|ntk|yarn|llama3, factor: ...}: for a longer context than was trained"
    )

    def filled(self, dims: Dims) -> Self:
        if self.scaling is None or self.scaling.original_block_size:
            return self
        original = dims.block_size / self.scaling.factor
        if not original.is_integer():  # no number of tokens that could be written
            return self
        return self.model_copy(
            update={"scaling": self.scaling.model_copy(update={"original_block_size": int(original)})}
        )

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if self.fraction == 1 and dims.head_dim % 2:
            yield "type", f"rope rotates pairs, but head_dim is {dims.head_dim}; make it even"
        elif rotary_dim(self, dims) % 2 or not rotary_dim(self, dims):
            rotated = int(dims.head_dim * self.fraction)
            tries = " or ".join(f"{n / dims.head_dim:g}" for n in (rotated - 1, rotated + 1) if 0 < n <= dims.head_dim)
            yield "fraction", f"rope rotates pairs, but {self.fraction:g} of a head is {rotated} wide; try {tries}"
        if isinstance(self.scaling, Llama3Scaling) and self.scaling.low_freq_factor >= self.scaling.high_freq_factor:
            yield "scaling.low_freq_factor", "is not below high_freq_factor; Llama 3.1 has 1 and 4"
        if isinstance(self.scaling, YaRNScaling) and self.scaling.beta_slow >= self.scaling.beta_fast:
            yield "scaling.beta_slow", "is not below beta_fast; the paper has 1 and 32"


def rotary_dim(params: RoPEParams, dims: Dims) -> int:
    """How many entries of a head are rotated, the first ones."""
    return int(dims.head_dim * params.fraction)


class ALiBiParams(PositionParams):
    acts_on = "scores"


class LearnedParams(PositionParams):
    acts_on = "embeddings"


class SinusoidalParams(PositionParams):
    acts_on = "embeddings"

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if dims.n_embd % 2:
            yield "type", f"sinusoidal pairs a sine with a cosine, but n_embd is {dims.n_embd}; make it even"


class NoPositionParams(PositionParams):
    acts_on = "nothing"


VARIANTS = [
    Variant(
        slot="position",
        name="rope",
        target="foundry.modules.position.rope:RoPE",
        params=RoPEParams,
        summary="rotate queries and keys by their position",
        reference="arXiv:2104.09864",
        plain="foundry.modules.position.plain:RoPE",
    ),
    Variant(
        slot="position",
        name="alibi",
        target="foundry.modules.position.alibi:ALiBi",
        params=ALiBiParams,
        summary="lower a score in proportion to the distance",
        reference="arXiv:2108.12409",
        plain="foundry.modules.position.plain:ALiBi",
    ),
    Variant(
        slot="position",
        name="learned",
        target="foundry.modules.position.learned:Learned",
        params=LearnedParams,
        summary="add a learned vector per position",
        reference="GPT-2",
        plain="foundry.modules.position.plain:Learned",
    ),
    Variant(
        slot="position",
        name="sinusoidal",
        target="foundry.modules.position.sinusoidal:Sinusoidal",
        params=SinusoidalParams,
        summary="add sines and cosines of the position",
        reference="arXiv:1706.03762",
        plain="foundry.modules.position.plain:Sinusoidal",
    ),
    Variant(
        slot="position",
        name="none",
        target="foundry.modules.position.none:NoPosition",
        params=NoPositionParams,
        summary="none: order is known only through the causal mask",
        reference="arXiv:2305.19466",
        plain="foundry.modules.position.plain:NoPosition",
    ),
]
