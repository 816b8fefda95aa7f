"""Slot `norm`: what keeps a layer's input at one scale. Built as `target(params, dims, size)`, size = the last axis."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from foundry.core.contracts import Dims, Edits, Mutation, NormParams, Variant


class RMSNormParams(NormParams):
    eps: float = Field(1e-5, gt=0, lt=1, description="added to the mean square", json_schema_extra={"search": False})


class LayerNormParams(NormParams):
    eps: float = Field(1e-5, gt=0, lt=1, description="added to the variance", json_schema_extra={"search": False})


class DyTParams(NormParams):
    alpha: float = Field(0.5, gt=0, description="initial slope of the tanh; the paper's is 0.5, for wide models less")

    def embedding_scale(self, dims: Dims) -> float | None:
        """sqrt(C): the paper's models of language do not converge without it."""
        return math.sqrt(dims.n_embd)


def normalise_queries_and_keys(experiment: Mapping[str, Any], value: str) -> Edits:
    """`norm qknorm`: the same norm between the layers, and one more on queries and keys, in every attention."""
    chosen = ["model_args", *(f"layers.{key}" for key, choice in experiment["layers"].items() if "attention" in choice)]
    return {f"{place}.attention.qk_norm": True for place in chosen}


VARIANTS = [
    Variant(
        slot="norm",
        name="rmsnorm",
        target="foundry.modules.norm.rmsnorm:RMSNorm",
        params=RMSNormParams,
        summary="divide by the root mean square",
        reference="arXiv:1910.07467",
        plain="foundry.modules.norm.plain:rmsnorm",
    ),
    Variant(
        slot="norm",
        name="layernorm",
        target="foundry.modules.norm.layernorm:LayerNorm",
        params=LayerNormParams,
        summary="subtract the mean, divide by the standard deviation",
        reference="arXiv:1607.06450",
        plain="foundry.modules.norm.plain:layernorm",
    ),
    Variant(
        slot="norm",
        name="dyt",
        target="foundry.modules.norm.dyt:DyT",
        params=DyTParams,
        summary="dynamic tanh: bound instead of normalise, without statistics",
        reference="arXiv:2503.10622",
        plain="foundry.modules.norm.plain:DyT",
    ),
]

MUTATIONS = [
    Mutation(
        "qknorm",
        normalise_queries_and_keys,
        "RMS-normalise queries and keys too: sets attention.qk_norm (arXiv:2302.05442)",
        slot="norm",
    )
]
