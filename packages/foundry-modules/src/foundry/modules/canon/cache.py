"""What a layer with short convolutions remembers."""

from collections.abc import Mapping

from torch import Tensor

from foundry.core.contracts import Cache


class CanonCache:
    """The attention's cache, and for each convolution the last kernel - 1 of its inputs, (B, kernel - 1, size); zeros
    before the first token."""

    def __init__(self, attention: Cache, history: Mapping[str, Tensor]) -> None:
        self.attention, self.history = attention, history

    @property
    def length(self) -> int:
        return self.attention.length

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.attention.tensors, *self.history.values())
