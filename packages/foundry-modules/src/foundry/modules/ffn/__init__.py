"""Slot `ffn`: what a layer does to each token by itself. Built as `target(params, dims, activation)`."""

from pydantic import Field

from foundry.core.contracts import Params, Variant


class DenseParams(Params):
    hidden: int | None = Field(
        None,
        ge=1,
        description="hidden width; null: 4 n_embd, or 8/3 n_embd (rounded up to a multiple of 8) when the activation "
        "is gated, for about equal parameters",
    )


VARIANTS = [
    Variant(
        slot="ffn",
        name="dense",
        target="foundry.modules.ffn.dense:Dense",
        params=DenseParams,
        summary="one hidden layer, gated if the activation is",
        reference="arXiv:1706.03762, arXiv:2002.05202",
    )
]
