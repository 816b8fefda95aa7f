"""Slot `scaling`: how initial weights, learning rates and the forward pass follow from the model's sizes, so that what
was tuned on a smaller base holds for a wider or deeper model. Built as `target(params, dims, base)`; imports no torch.

A rule speaks of the ratios m = n_embd / base_n_embd and L = n_layer / base_n_layer. At m = L = 1 it changes nothing.
"""

from typing import Any

from pydantic import Field

from foundry.core.contracts import ScalingParams, Variant

NOT_SEARCHED: dict[str, Any] = {"search": False}
"""For bases: a fact about where the experiment's numbers come from, and nothing to try values of."""


class NoneParams(ScalingParams):
    pass


class SqrtWidthParams(ScalingParams):
    base_n_embd: int | None = Field(
        None,
        ge=1,
        description="n_embd of the model that the learning rate was found with; null: this one's",
        json_schema_extra=NOT_SEARCHED,
    )


class MuPParams(SqrtWidthParams):
    base_head_dim: int | None = Field(
        None,
        ge=1,
        description="head_dim of that model; null: this one's, which `width` keeps",
        json_schema_extra=NOT_SEARCHED,
    )


class CompletePParams(MuPParams):
    base_n_layer: int | None = Field(
        None, ge=1, description="n_layer of that model; null: this one's", json_schema_extra=NOT_SEARCHED
    )
    alpha: float = Field(
        1.0, ge=0.5, le=1, description="branches are divided by (n_layer / base_n_layer)^alpha; 0.5: depth-muP"
    )


VARIANTS = [
    Variant(
        slot="scaling",
        name="none",
        target="foundry.modules.scaling.none:NoScaling",
        params=NoneParams,
        summary="the same learning rate and initial weights at every size",
    ),
    Variant(
        slot="scaling",
        name="mup",
        target="foundry.modules.scaling.mup:MuP",
        params=MuPParams,
        summary="maximal update parametrisation: the best learning rate does not move with the width",
        reference="arXiv:2203.03466",
    ),
    Variant(
        slot="scaling",
        name="completep",
        target="foundry.modules.scaling.completep:CompleteP",
        params=CompletePParams,
        summary="mup, and branches divided by the depth: the best learning rate does not move with either",
        reference="arXiv:2505.01618",
    ),
    Variant(
        slot="scaling",
        name="sqrt_width",
        target="foundry.modules.scaling.sqrt_width:SqrtWidth",
        params=SqrtWidthParams,
        summary="AdamW's learning rates fall with the root of the width, and nothing else changes",
        reference="https://github.com/karpathy/nanochat",
    ),
]
