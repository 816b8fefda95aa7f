"""Which text is held out.

Many documents are split by a hash of their content: one that is added moves no other, and two equal ones never stand
on both sides. Few documents are split at one place near the end of the text, as the field's small corpora are.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
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
    parts: Iterator[str]  # its text, read once and before the next piece is asked for
    start: int = 0  # characters of its document before it
    ends_document: bool = True


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
        sizes = zip(self._survey.lengths, self._training_characters, strict=True)
        for document, is_visible in zip(self.dataset.documents(), self._survey.is_visible, strict=True):
            if not is_visible:
                continue
            (length, train), text = next(sizes), _Text(document.parts())
            if train:
                head = text.read(train)
                yield Piece("train", document.name, head, ends_document=train == length)
                _read_to_the_end(head)
            if text:
                yield Piece("validation", document.name, text.read(), start=train)

    @property
    def characters(self) -> int:
        return sum(self._survey.lengths)

    @property
    def documents(self) -> int:
        return len(self._survey.lengths)

    @cached_property
    def _training_characters(self) -> Sequence[int]:
        rule = _by_content if self.documents >= MANY_DOCUMENTS else _by_place
        return rule(self._survey.lengths, self._survey.hashes, self.val_fraction)

    @cached_property
    def _survey(self) -> _Survey:
        survey = _Survey(bytearray(), array("q"), array("Q"))
        for document in self.dataset.documents():
            length, is_visible, sha256 = 0, False, hashlib.sha256()
            for part in document.parts():
                length += len(part)
                is_visible = is_visible or (bool(part) and not part.isspace())
                sha256.update(part.encode("utf-8", errors="surrogatepass"))
            survey.is_visible.append(is_visible)
            if is_visible:
                survey.lengths.append(length)
                survey.hashes.append(int.from_bytes(sha256.digest()[:8], "little"))
        if not survey.lengths:
            raise InvalidData("the corpus is empty: it has no document with a visible character")
        return survey


class _Survey(NamedTuple):
    """What was seen of the documents; millions of them take little memory."""

    is_visible: bytearray  # of each document: whether it has a visible character
    lengths: array[int]  # in characters, of each visible one
    hashes: array[int]  # 64 bits of sha256, of each visible one


class _Text:
    """A text in parts, read on from where it was left; true until it has ended."""

    def __init__(self, parts: Iterator[str]) -> None:
        self._parts, self._ahead = parts, ""

    def __bool__(self) -> bool:
        while not self._ahead and (part := next(self._parts, None)) is not None:
            self._ahead = part
        return bool(self._ahead)

    def read(self, characters: int | None = None) -> Iterator[str]:
        """The next characters, or all that are left."""
        left = characters
        while (left is None or left) and self:
            part = self._ahead[:left]
            self._ahead = self._ahead[len(part) :]
            left = None if left is None else left - len(part)
            yield part


def _read_to_the_end(parts: Iterator[str]) -> None:
    for _ in parts:
        pass


def _by_content(lengths: Sequence[int], hashes: Sequence[int], val_fraction: float) -> Sequence[int]:
    """The documents with small hashes are held out; the smallest always is, and the largest never."""
    bound = max(min(hashes) + 1, min(max(hashes), int(val_fraction * 2**64)))
    return array("q", (0 if number < bound else length for length, number in zip(lengths, hashes, strict=True)))


def _by_place(lengths: Sequence[int], hashes: Sequence[int], val_fraction: float) -> Sequence[int]:
    """The last characters of the text are held out: of 10 000 and 0.1, the last 1 000."""
    left = int(sum(lengths) * (1 - val_fraction))
    training = []
    for length in lengths:
        training.append(min(length, left))
        left -= training[-1]
    return training
