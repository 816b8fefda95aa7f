"""Slot `loss`: how wrong the predicted tokens are. Built as `target(params, dims)`."""

from collections.abc import Iterator

from pydantic import Field

from foundry.core.contracts import Dims, Params, Variant


class CrossEntropyParams(Params):
    z_loss: float = Field(0.0, ge=0, description="weight of mean(log Z)^2, which keeps logits from drifting; 0 = off")
    chunk_tokens: int | None = Field(
        None,
        ge=1,
        description="make the logits of this many tokens at a time and never hold all of them: less memory where "
        "tokens times vocabulary is large; null: all at once",
    )

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if self.z_loss and self.chunk_tokens:
            yield "chunk_tokens", "cannot be combined with z_loss; set one of them to its default"


VARIANTS = [
    Variant(
        slot="loss",
        name="cross_entropy",
        target="foundry.modules.loss.cross_entropy:CrossEntropy",
        params=CrossEntropyParams,
        summary="next-token cross-entropy",
    )
]
