"""What scores a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from foundry.core.contracts.data import Tokenizer
    from foundry.core.contracts.plugins import Edits


class Item(NamedTuple):
    """One scored item of a task."""

    id: str
    score: float
    metric: str  # "bits_per_byte", "accuracy"
    higher_is_better: bool


class Handle(Protocol):
    """A trained model as an evaluator sees it."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def block_size(self) -> int: ...

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For (context, continuation): the continuation's log-likelihood in nats, and whether greedy decoding gives
        exactly it."""

    def generate(self, prompts: Sequence[str], *, max_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Greedy continuations, to where the model ends them, each cut before the first of `stop` in it."""

    def train(self, edits: Edits) -> Handle:
        """A new model of the same experiment with `edits`, trained from scratch: how a synthetic probe learns."""


class Evaluator(Protocol):
    """Slot `task`; built as `target(params)`."""

    def run(self, handle: Handle) -> list[Item]: ...
