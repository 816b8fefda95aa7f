"""Slot `position`: how a model knows the order of its tokens. Built as `target(params, dims)`.

`acts_on` says where: on the embeddings, on queries and keys, on attention scores, or nowhere.
"""

from collections.abc import Iterator

from pydantic import Field

from foundry.core.contracts import Dims, PositionParams, Variant


class RoPEParams(PositionParams):
    acts_on = "qk"
    theta: float = Field(10_000.0, gt=1, description="base of the wavelengths: the longest is about 2 pi theta tokens")

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if dims.head_dim % 2:
            yield "type", f"rope rotates pairs, but head_dim is {dims.head_dim}; make it even"


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
    ),
    Variant(
        slot="position",
        name="alibi",
        target="foundry.modules.position.alibi:ALiBi",
        params=ALiBiParams,
        summary="lower a score in proportion to the distance",
        reference="arXiv:2108.12409",
    ),
    Variant(
        slot="position",
        name="learned",
        target="foundry.modules.position.learned:Learned",
        params=LearnedParams,
        summary="add a learned vector per position",
        reference="GPT-2",
    ),
    Variant(
        slot="position",
        name="sinusoidal",
        target="foundry.modules.position.sinusoidal:Sinusoidal",
        params=SinusoidalParams,
        summary="add sines and cosines of the position",
        reference="arXiv:1706.03762",
    ),
    Variant(
        slot="position",
        name="none",
        target="foundry.modules.position.none:NoPosition",
        params=NoPositionParams,
        summary="none: order is known only through the causal mask",
        reference="arXiv:2305.19466",
    ),
]
