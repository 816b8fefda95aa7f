"""What a model reads: batches of rows, and the tokenizer between text and ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np


class Batch(NamedTuple):
    """Some rows of a corpus. numpy arrays where a `Rows` makes them, tensors where the model reads them.

    `targets[b, t]` is the token that follows `tokens[b, t]`. `loss_weight` is 0 for targets that are not learned
    (padding, a prompt); any other target is supervised, and counts as one token that is trained on. `positions` and
    `segments` are None where each row is one piece of one document; otherwise tokens attend only within their segment.
    """

    tokens: Any  # (B, T) int64
    targets: Any  # (B, T) int64
    loss_weight: Any = None  # (B, T) float32, or None: every target counts
    positions: Any = None  # (B, T) int64, or None: 0..T-1
    segments: Any = None  # (B, T) int32, or None: one segment
    is_token: Any = None  # (B, T) bool, False where a row is filled up behind its text, or None: nowhere


class Tokenizer(Protocol):
    """Text <-> token ids. The ids of a text spell it, byte for byte. Control tokens come only from code, never from
    text that spells them."""

    @property
    def vocab_size(self) -> int:
        """V, control tokens included."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Name -> id of the control tokens that exist: `bos`, which begins every document, `eos`, which ends it, `pad`,
        `unk`."""

    @property
    def prefix(self) -> tuple[int, ...]:
        """The ids before a prompt."""

    @property
    def stops(self) -> tuple[int, ...]:
        """Each of these ids ends a generated text."""

    @property
    def hash(self) -> str:
        """sha256 of the vocabulary: two tokenizers with the same hash encode alike."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without control tokens. Raises InvalidData for text that they would not spell."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD, control tokens become nothing."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of `ids`, which may end inside a character; control tokens become nothing.

        `ids` begin a text. Some tokenizers add a blank before each text, and remove it again. So what `b` adds after
        `a` is `decode_bytes(a + b)` without the leading `decode_bytes(a)`."""

    def bytes_of(self, ids: Sequence[int] | np.ndarray) -> int:
        """How many bytes `decode_bytes(ids)` has. Bits per byte divides by it."""

    def to_json(self) -> dict[str, Any]:
        """Everything that `from_json(data)` of the class needs, with the variant's name under `type`."""


class FixedRows(Protocol):
    """A finite list of rows that never changes, for the validation loss."""

    def __len__(self) -> int: ...
    @property
    def tokens(self) -> int:
        """Supervised tokens in all rows."""

    def batch(self, start: int, stop: int) -> Batch:
        """Rows start..stop-1. Each target of the validation text appears in exactly one row."""

    def take(self, indices: np.ndarray) -> Batch:
        """The rows with these numbers."""


class Rows(Protocol):
    """An endless sequence of training rows in which row k is a pure function of (fingerprint, seed, k)."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def fingerprint(self) -> str:
        """Hash of everything that row k depends on, except the seed: text, tokenizer, plan, block_size."""

    @property
    def rows_per_epoch(self) -> int: ...
    @property
    def tokens_per_epoch(self) -> int:
        """Supervised training tokens in one epoch."""

    def tokens_before(self, cursor: int) -> int:
        """Supervised tokens in rows 0..cursor-1, without reading them: the sum over their batches."""

    @property
    def validation(self) -> FixedRows: ...

    def batch(self, start: int, stop: int) -> Batch:
        """Rows start..stop-1, start >= 0, in an order that is shuffled anew each epoch."""

    def take(self, indices: np.ndarray) -> Batch:
        """The rows with these numbers k, in this order: one rank's part of a global batch."""

    def state(self, cursor: int) -> dict[str, Any]:
        """What a checkpoint must hold to resume at row `cursor`: JSON, under 1 KB, the same on every rank."""

    def resume(self, state: Mapping[str, Any]) -> int:
        """The cursor of a saved state. Raises InvalidData, naming the first difference, if the data changed."""


class OpenData(Protocol):
    """The target of the section `data`: prepares the corpus, if needed, and opens it."""

    def __call__(
        self,
        params: Any,
        *,
        block_size: int,
        seed: int,
        tokenizer: Tokenizer | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Rows:
        """`tokenizer` overrides the one that `params` asks for: a resumed run keeps its own."""
