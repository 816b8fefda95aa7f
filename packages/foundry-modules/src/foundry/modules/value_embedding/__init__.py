"""Slot `value_embedding`: a second embedding of the token, added to the attention's values. Built as
`target(params, dims, size)`."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from foundry.core.contracts import Dims, NoParams, OptionalParams, Variant


class TableParams(OptionalParams):
    every: int = Field(2, ge=1, description="one table for every N layers, counted from the last; 1: all layers")

    def has_part(self, dims: Dims) -> bool:
        return (dims.n_layer - 1 - dims.layer) % self.every == 0


class GatedParams(TableParams):
    gate_channels: int = Field(32, ge=1, description="first entries of the attention's input that open the gates")

    def resized(self, old: Dims, new: Dims) -> Mapping[str, Any]:
        return {"gate_channels": new.n_embd} if self.gate_channels > new.n_embd else {}

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if self.gate_channels > dims.n_embd:
            yield "gate_channels", f"{self.gate_channels} is more than n_embd {dims.n_embd}; try {dims.n_embd}"


VARIANTS = [
    Variant(
        slot="value_embedding",
        name="none",
        target="torch.nn:Identity",
        params=NoParams,
        summary="none: values come from the stream alone",
    ),
    Variant(
        slot="value_embedding",
        name="table",
        target="foundry.modules.value_embedding.table:Table",
        params=TableParams,
        summary="a table of its own for every other layer",
        reference="https://github.com/KellerJordan/modded-nanogpt, arXiv:2410.17897",
        plain="foundry.modules.value_embedding.plain:Table",
    ),
    Variant(
        slot="value_embedding",
        name="gated",
        target="foundry.modules.value_embedding.gated:Gated",
        params=GatedParams,
        summary="a table for every other layer, and a gate for each head that the stream opens",
        reference="https://github.com/karpathy/nanochat",
        plain="foundry.modules.value_embedding.plain:Gated",
    ),
]
