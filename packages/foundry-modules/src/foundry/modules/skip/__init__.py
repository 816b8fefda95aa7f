"""Slot `skip`: what a layer gets beside the stream of the layer before. Built as `target(params, dims)`."""

from pydantic import Field

from foundry.core.contracts import NoParams, OptionalParams, Variant


class X0Params(OptionalParams):
    initial: float = Field(0.1, ge=0, le=1, description="initial weight of the embeddings; that of the stream is 1")


VARIANTS = [
    Variant(
        slot="skip",
        name="none",
        target="torch.nn:Identity",
        params=NoParams,
        summary="none: the stream alone",
    ),
    Variant(
        slot="skip",
        name="x0",
        target="foundry.modules.skip.x0:X0",
        params=X0Params,
        summary="a learned mix of the stream and the embeddings, two scalars for each layer",
        reference="https://github.com/karpathy/nanochat, https://github.com/KellerJordan/modded-nanogpt",
        plain="foundry.modules.skip.plain:X0",
    ),
]
