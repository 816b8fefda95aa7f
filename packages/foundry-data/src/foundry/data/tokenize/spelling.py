"""What every tokenizer here shares: an id stands for a string of bytes, and the special tokens stand for nothing."""

from __future__ import annotations

import json
import operator
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from foundry.core.contracts import InvalidData
from foundry.data.split import SplitText
from foundry.data.storage import hash_of, write_atomically

BOS, EOS = "bos", "eos"
"""The special tokens that every document begins and ends with."""


class SpellingTokenizer(ABC):
    """A tokenizer whose id i stands for the bytes `spelling[i]`; the ids after those are the special tokens."""

    type: ClassVar[str]
    special_names: tuple[str, ...] = (BOS, EOS)
    """In the order of their ids. Runs of old were saved with `bos` alone."""

    @property
    @abstractmethod
    def spelling(self) -> Sequence[bytes]:
        """The bytes of each id, special tokens left out."""

    @abstractmethod
    def encode_array(self, text: str) -> np.ndarray:
        """Ids of `text`, (N,) of some unsigned integer type, without special tokens.

        Raises:
            InvalidData: the vocabulary cannot spell `text`.
        """

    def encode_chunk(self, text: str, goes_on: bool) -> np.ndarray:
        return self.encode_array(text)

    @abstractmethod
    def border(self, text: str) -> int:
        """Where a long text may be cut: see `foundry.data.tokenize.borders`."""

    @abstractmethod
    def vocabulary(self) -> dict[str, Any]:
        """What makes this tokenizer, as JSON."""

    @classmethod
    @abstractmethod
    def learn(cls, params: Any, text: SplitText) -> Self:
        """The tokenizer that `params` ask for, with what it must know of the text."""

    @classmethod
    @abstractmethod
    def from_vocabulary(cls, vocabulary: dict[str, Any]) -> Self:
        """The tokenizer whose `vocabulary()` this is."""

    def encode(self, text: str) -> list[int]:
        return self.encode_array(text).tolist()

    @cached_property
    def vocab_size(self) -> int:
        return len(self.spelling) + len(self.special_names)

    @cached_property
    def special_tokens(self) -> Mapping[str, int]:
        return {name: len(self.spelling) + i for i, name in enumerate(self.special_names)}

    @property
    def prefix(self) -> tuple[int, ...]:
        return (self.special_tokens[BOS],)

    @property
    def stops(self) -> tuple[int, ...]:
        return tuple(i for name, i in self.special_tokens.items() if name == EOS)

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        first_special = len(self.spelling)
        numbers = [operator.index(i) for i in ids]
        if numbers and not 0 <= min(numbers) <= max(numbers) < self.vocab_size:
            bad = next(i for i in numbers if not 0 <= i < self.vocab_size)
            raise InvalidData(f"id {bad} is not in this tokenizer's vocabulary of {self.vocab_size}")
        return b"".join(self.spelling[i] for i in numbers if i < first_special)

    def bytes_of(self, ids: Sequence[int] | np.ndarray) -> int:
        return int(self._byte_lengths[np.asarray(ids, dtype=np.int64)].sum())

    @cached_property
    def _byte_lengths(self) -> np.ndarray:
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        lengths[: len(self.spelling)] = [len(spelling) for spelling in self.spelling]
        return lengths

    @cached_property
    def hash(self) -> str:
        return hash_of(self._plain())

    def to_json(self) -> dict[str, Any]:
        return {**self._plain(), "hash": self.hash}

    def _plain(self) -> dict[str, Any]:
        return {"type": self.type, "special_tokens": dict(self.special_tokens), **self.vocabulary()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The tokenizer whose `to_json()` is `data`.

        Raises:
            InvalidData: it does not match its own hash, or is not of this type.
        """
        plain = {key: value for key, value in data.items() if key != "hash"}
        if data.get("hash") != hash_of(plain):
            raise InvalidData("the tokenizer does not match its own hash: damaged, or edited by hand", "restore it")
        try:
            tokenizer = cls.from_vocabulary(plain)
            numbers = dict(plain["special_tokens"])
            tokenizer.special_names = tuple(sorted(numbers, key=numbers.__getitem__))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidData(f"not the vocabulary of a {cls.type} tokenizer: {error!r}") from error
        if tokenizer.hash != data["hash"]:
            raise InvalidData(f"this version's {cls.type} tokenizer is not the one that was saved")
        return tokenizer

    def save(self, path: str | Path) -> None:
        """Write `path` as JSON, whole or not at all; `load_tokenizer` reads it.

        Raises:
            EnvironmentFailure: the disk is full or the folder not writable.
        """
        write_atomically(Path(path), (json.dumps(self.to_json(), ensure_ascii=True, indent=1) + "\n").encode())


def utf8(text: str) -> bytes:
    """The bytes of `text`.

    Raises:
        InvalidData: it holds half of a surrogate pair, which is no character.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidData(
            f"character {error.start} is U+{ord(text[error.start]):04X}, half of a surrogate pair, which UTF-8 cannot "
            "spell",
            'drop such halves, for instance with text.encode("utf-8", "ignore").decode()',
        ) from error


def unlike(text: str, spelled: bytes, why: str, hint: str) -> InvalidData:
    """The refusal of a text whose ids spell something else, by the first place where they do."""
    wanted = text.encode()
    length = min(len(wanted), len(spelled))
    differs = np.frombuffer(wanted, np.uint8, length) != np.frombuffer(spelled, np.uint8, length)
    same = int(differs.argmax()) if differs.any() else length
    at = len(wanted[:same].decode(errors="ignore"))
    near, became = text[at : at + 10], spelled[len(text[:at].encode()) :][:40].decode(errors="replace")[:10]
    shown = ascii if any(map(unicodedata.combining, near[:2] + became[:2])) else repr  # as 'é' and 'é' look alike
    line = text.count("\n", 0, at) + 1
    place = f"character {at} of the text, in line {line}"
    return InvalidData(f"the tokenizer would read {shown(near)}, {place}, as {shown(became)}: {why}", hint)
