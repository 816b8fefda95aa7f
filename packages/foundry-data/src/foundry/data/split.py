"""Which text is held out.

Many documents are split by a hash of their content: one that is added moves no other, and two equal ones never stand
on both sides. Few documents are split at one place near the end of the text, as the field's small corpora are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Literal, NamedTuple

from foundry.core.contracts import InvalidData
from foundry.data.corpora import Dataset

MANY_DOCUMENTS = 20

Part = Literal["train", "validation"]
PARTS: tuple[Part, Part] = ("train", "validation")


class Piece(NamedTuple):
    """A document, or the part of it that falls on one side of the split."""

    part: Part
    name: str
    text: str
    begins_document: bool = True


class SplitText:
    """The text of `dataset`, with each document's leading characters, all or none of them as a rule, for training.

    Raises, when first read:
        InvalidData: there is no text at all.
    """

    def __init__(self, dataset: Dataset, val_fraction: float) -> None:
        self.dataset = dataset
        self.val_fraction = val_fraction

    def pieces(self) -> Iterator[Piece]:
        """The corpus in order. Documents without a visible character are left out."""
        documents = (document for document in self.dataset.documents() if document.text.strip())
        for (name, text), train in zip(documents, self._training_characters, strict=True):
            if train:
                yield Piece("train", name, text[:train])
            if train < len(text):
                yield Piece("validation", name, text[train:], begins_document=train == 0)

    @property
    def characters(self) -> int:
        return sum(self._lengths)

    @property
    def documents(self) -> int:
        return len(self._lengths)

    @cached_property
    def _training_characters(self) -> list[int]:
        rule = _by_content if len(self._lengths) >= MANY_DOCUMENTS else _by_place
        return rule(self._lengths, self._hashes, self.val_fraction)

    @property
    def _lengths(self) -> list[int]:
        return [length for length, _ in self._survey]

    @property
    def _hashes(self) -> list[int]:
        return [number for _, number in self._survey]

    @cached_property
    def _survey(self) -> list[tuple[int, int]]:
        """Length in characters and hash, 64 bits, of each document."""
        survey = []
        for _, text in self.dataset.documents():
            if text.strip():
                digest = hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()
                survey.append((len(text), int.from_bytes(digest[:8], "little")))
        if not survey:
            raise InvalidData("the corpus is empty: it has no document with a visible character")
        return survey


_Rule = Callable[[list[int], list[int], float], list[int]]


def _by_content(lengths: list[int], hashes: list[int], val_fraction: float) -> list[int]:
    """The documents with small hashes are held out; the smallest always is, and the largest never."""
    bound = max(min(hashes) + 1, min(max(hashes), int(val_fraction * 2**64)))
    return [0 if number < bound else length for length, number in zip(lengths, hashes, strict=True)]


def _by_place(lengths: list[int], hashes: list[int], val_fraction: float) -> list[int]:
    """The last characters of the text are held out: of 10 000 and 0.1, the last 1 000."""
    left = int(sum(lengths) * (1 - val_fraction))
    training = []
    for length in lengths:
        training.append(min(length, left))
        left -= training[-1]
    return training
