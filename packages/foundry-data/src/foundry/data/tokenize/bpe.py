"""Byte-pair encoding: start from the 256 bytes, join the most frequent pair of neighbours, repeat.

Merges never cross the pieces that PIECES cuts the text into. rustbpe learns the merges, tiktoken applies them; the
tests hold both to a reference in plain Python.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Self

import numpy as np
import regex  # type: ignore[import-untyped, unused-ignore]
import rustbpe  # type: ignore[import-untyped]
import tiktoken

from foundry.core.contracts import InvalidData
from foundry.data.split import SplitText
from foundry.data.tokenize import BPEParams, huggingface
from foundry.data.tokenize.borders import chunks, is_unknown, word_borders
from foundry.data.tokenize.spelling import SpellingTokenizer, utf8

PIECES = "|".join(
    (
        r"'(?i:s|t|d|m|ll|re|ve)",  # what follows an English apostrophe
        r"[^\r\n\p{L}\p{N}]?\p{L}{1,64}",  # a word and the space (or the bracket, ...) before it
        r"\p{N}{1,3}",  # at most 3 digits: else numbers fill the vocabulary
        r" ?[^\s\p{L}\p{N}]{1,64}[\r\n]{0,8}",  # punctuation, to the end of its line
        r"\s{0,64}[\r\n]",  # blank lines
        r"\s{1,64}(?!\S)",  # indentation, but for the space that belongs to the word
        r"\s{1,64}",
    )
)
"""A cut of any text into pieces of <= 73 characters that lose nothing. The branches follow GPT-4's tokenizer
(tiktoken's cl100k_base); the bounds are ours: merging is quadratic in a piece's length, so that 50 000 underscores in
a row, one piece in cl100k_base, would take seconds."""
LONGEST_PIECE = 73

TEXTS_AT_ONCE = 32
"""Chunks of which rustbpe counts the pieces at a time."""
DIFFERENT = 10_000_000
"""Characters in the different pieces that merges are learned from: rustbpe takes up to 93 bytes for each (random
letters, digits and signs; 60 in a language, of which 10 million are found in some 200 MB)."""
UNCOUNTED = 2**24
"""Characters of a text up to which its pieces are not counted first: counting takes as long as learning."""
A_TURN = 2**27
"""Characters of a longer text that are read in a turn, spread over all of it; there are turns until there is enough."""


class BPETokenizer(SpellingTokenizer):
    """`vocab_size` ids in all: 256 bytes, the merges, and the special tokens.

    Raises:
        InvalidData: a vocab_size that does not even hold the bytes and the special tokens.
    """

    type = "bpe"

    def __init__(self, vocab_size: int) -> None:
        smallest = 256 + len(self.special_names)
        if vocab_size < smallest:
            raise InvalidData(
                f"tokenizer.vocab_size: {vocab_size} is less than {smallest}: 256 bytes and "
                f"{len(self.special_names)} special tokens"
            )
        self._asked = vocab_size
        self._spelling: tuple[bytes, ...] = ()

    @property
    def spelling(self) -> tuple[bytes, ...]:
        if not self._spelling:
            raise InvalidData("this BPE tokenizer has not learned its merges yet", "call fit(corpus) first")
        return self._spelling

    def fit(self, corpus: str | Iterable[str]) -> None:
        """Learn the merges from `corpus`: a text, or several.

        Raises:
            InvalidData: `corpus` has fewer pairs to merge than `vocab_size` asks for.
        """
        wanted = self._asked - len(self.special_names)
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(_utf8_texts(corpus), wanted, buffer_size=TEXTS_AT_ONCE, pattern=PIECES)
        spelling = [token for token, _ in sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])]
        if len(spelling) < wanted:
            possible = len(spelling) + len(self.special_names)
            raise InvalidData(
                f"tokenizer.vocab_size: {self._asked} needs {wanted - 256} merges, and the corpus has only "
                f"{len(spelling) - 256}",
                f"give it more text, or set vocab_size to at most {possible}",
            )
        self._know(spelling)

    def _know(self, spelling: Iterable[bytes]) -> None:
        self.__dict__ = {"_asked": self._asked, "_spelling": tuple(spelling)}  # without what was computed before

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        # No special tokens: tiktoken cannot find in a text what it was never told of.
        ranks = {token: rank for rank, token in enumerate(self.spelling)}
        return tiktoken.Encoding("foundry", pat_str=PIECES, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> list[int]:
        utf8(text)  # tiktoken would replace half a surrogate pair without a word
        return self._encoding.encode_ordinary(text)

    def encode_array(self, text: str) -> np.ndarray:
        utf8(text)
        return self._encoding.encode_to_numpy(text, disallowed_special=())

    def border(self, text: str) -> int:
        return border(text)

    @classmethod
    def learn(cls, params: BPEParams, text: SplitText) -> Self:
        """From the training text alone, so that nothing of the validation text leaks into the model; of one with very
        many different pieces, from a part that is spread over it."""
        tokenizer = cls(params.vocab_size)
        tokenizer.fit(_bounded(text) if text.characters > UNCOUNTED else _training_chunks(text))
        return tokenizer

    def to_huggingface(self) -> dict[str, str]:
        """Name -> text of the files that transformers reads."""
        return huggingface.byte_level(self.spelling, PIECES, self.special_tokens)

    def vocabulary(self) -> dict[str, Any]:
        return {"pieces": PIECES, "merges": [base64.b64encode(token).decode() for token in self.spelling[256:]]}

    @classmethod
    def from_vocabulary(cls, vocabulary: dict[str, Any]) -> Self:
        merges = [base64.b64decode(token, validate=True) for token in vocabulary["merges"]]
        tokenizer = cls(256 + len(merges) + len(cls.special_names))
        tokenizer._know([bytes([byte]) for byte in range(256)] + merges)
        return tokenizer


def border(text: str) -> int:
    """The last place found where PIECES cuts `text`, which begins at such a place, whatever follows it.

    It cuts where a word, a number or a line ends: no branch goes on there, and none looks more than one character
    ahead, and then only past blanks. A text without any such place, one endless word, is cut into its pieces.
    """
    for at in word_borders(text):
        return at
    at = 0
    if not any(is_unknown(character) for character in set(text)):
        for piece in _PIECES.finditer(text):
            if piece.start() + LONGEST_PIECE >= len(text):
                break
            at = piece.end()
    return at


_PIECES = regex.compile(PIECES)


def _training_chunks(text: SplitText) -> Iterator[str]:
    for piece in text.pieces():
        if piece.part == "train":
            yield from chunks(piece.parts, border)


def _bounded(text: SplitText) -> Iterator[str]:
    """Chunks of the training text, every so many in each turn, until their different pieces have DIFFERENT
    characters."""
    seen: set[str] = set()
    left, turns = DIFFERENT, -(-text.characters // A_TURN)
    for turn in range(turns):
        for chunk in itertools.islice(_training_chunks(text), turn, None, turns):
            new = set(_PIECES.findall(chunk)) - seen
            seen |= new
            left -= sum(map(len, new))
            yield chunk
            if left <= 0:
                return


def _utf8_texts(corpus: str | Iterable[str]) -> Iterator[str]:
    for text in [corpus] if isinstance(corpus, str) else corpus:
        utf8(text)  # rustbpe would stop with a UnicodeEncodeError
        yield text
