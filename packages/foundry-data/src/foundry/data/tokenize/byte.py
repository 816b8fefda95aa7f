"""UTF-8 itself: 256 bytes and the special tokens."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from foundry.data.split import SplitText
from foundry.data.tokenize import ByteParams, huggingface
from foundry.data.tokenize.spelling import SpellingTokenizer, utf8


class ByteTokenizer(SpellingTokenizer):
    type = "byte"
    spelling = tuple(bytes([byte]) for byte in range(256))

    def encode_array(self, text: str) -> np.ndarray:
        return np.frombuffer(utf8(text), dtype=np.uint8)

    def border(self, text: str) -> int:
        return len(text)

    @classmethod
    def learn(cls, params: ByteParams, text: SplitText) -> Self:
        return cls()

    def to_huggingface(self) -> dict[str, str]:
        """Name -> text of the files that transformers reads."""
        return huggingface.byte_level(self.spelling, "", self.special_tokens)

    def vocabulary(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_vocabulary(cls, vocabulary: dict[str, Any]) -> Self:
        return cls()
