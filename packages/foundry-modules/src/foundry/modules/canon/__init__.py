"""Slot `canon`: a mix of each token with those just before it, at up to four points of a layer (Allen-Zhu, 2025,
https://ssrn.com/abstract=5240330). Built as `target(params, dims, sizes)`."""

from pydantic import Field

from foundry.core.contracts import CanonParams, NoParams, Shorthand, Sublayer, Variant


class NoCanonParams(NoParams, CanonParams):
    pass


class ConvParams(CanonParams):
    points: str = Field(
        "abcd",
        min_length=1,
        pattern="^a?b?c?d?$",
        description="a: before attention; b: on queries, keys and values; c: before the feed-forward network; "
        "d: before its activation",
    )
    kernel: int = Field(4, ge=2, le=64, description="tokens that are mixed, the current one among them")

    def inside(self) -> frozenset[Sublayer]:
        places: dict[str, Sublayer] = {"b": "attention", "d": "ffn"}
        return frozenset(places[point] for point in self.points if point in places)


VARIANTS = [
    Variant(
        slot="canon",
        name="none",
        target="torch.nn:Identity",
        params=NoCanonParams,
        summary="none: tokens meet in attention only",
    ),
    Variant(
        slot="canon",
        name="conv",
        target="foundry.modules.canon.conv:ConvCanon",
        params=ConvParams,
        summary="causal depthwise convolutions with a residual, before and inside both sublayers",
        reference="https://ssrn.com/abstract=5240330",
        plain="foundry.modules.canon.plain:ConvCanon",
    ),
]

SHORTHANDS = [
    Shorthand("canon", "abcd", {"type": "conv", "points": "abcd"}, "conv at all four points"),
    Shorthand("canon", "ac", {"type": "conv", "points": "ac"}, "conv before each sublayer: goes with any of them"),
]
