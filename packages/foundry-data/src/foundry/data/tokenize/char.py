"""One id per character that occurs in the corpus, in the order of their code points."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Self

import numpy as np

from foundry.core.contracts import InvalidData
from foundry.data.split import SplitText
from foundry.data.tokenize import CharParams, huggingface
from foundry.data.tokenize.spelling import SpellingTokenizer, utf8


class CharTokenizer(SpellingTokenizer):
    type = "char"

    def __init__(self) -> None:
        self.characters = ""

    def fit(self, corpus: str | Iterable[str]) -> None:
        """Learn the characters of `corpus`: a text, or several."""
        found: set[str] = set()
        for text in [corpus] if isinstance(corpus, str) else corpus:
            found.update(text)
        self._know("".join(sorted(found)))

    def _know(self, characters: str) -> None:
        utf8(characters)
        self.__dict__.clear()  # what was computed from the characters before
        self.characters = characters

    @cached_property
    def spelling(self) -> tuple[bytes, ...]:
        return tuple(character.encode() for character in self.characters)

    @cached_property
    def _id_of(self) -> np.ndarray:
        """Code point -> id, -1 where there is none."""
        points = [ord(character) for character in self.characters]
        table = np.full(max(points, default=0) + 2, -1, dtype=np.int32)
        table[points] = np.arange(len(points))
        return table

    def encode_array(self, text: str) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
        ids = self._id_of[np.minimum(points, len(self._id_of) - 1)]
        if len(ids) and ids.min() < 0:
            at = int(np.argmax(ids < 0))
            raise InvalidData(
                f"the vocabulary of {len(self.characters)} characters lacks {text[at]!r} (U+{ord(text[at]):04X}), "
                f"character {at} of the text",
                "leave it out, or train with tokenizer: byte, which spells everything",
            )
        return ids.astype(np.uint32)

    def border(self, text: str) -> int:
        return len(text)

    @classmethod
    def learn(cls, params: CharParams, text: SplitText) -> Self:
        """From the whole corpus: a character that only the validation text has must be spelled too."""
        tokenizer = cls()
        tokenizer.fit(part for piece in text.pieces() for part in piece.parts)
        return tokenizer

    def to_huggingface(self) -> dict[str, str]:
        """Name -> text of the files that transformers reads."""
        return huggingface.characters(self.characters, self.special_tokens)

    def vocabulary(self) -> dict[str, Any]:
        return {"characters": self.characters}

    @classmethod
    def from_vocabulary(cls, vocabulary: dict[str, Any]) -> Self:
        tokenizer = cls()
        tokenizer._know(vocabulary["characters"])
        return tokenizer
