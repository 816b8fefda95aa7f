"""The tokenizer of a pretrained model: a tokenizer.json, as Hugging Face's `tokenizers` writes it, read by that
library.

Its ids may be fewer than the model's rows (Qwen2 pads 151 646 to 151 936): `vocab_size` is the model's, so that the
ids that stand for nothing have an embedding.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Self

import numpy as np

from foundry.core.contracts import EnvironmentFailure, InvalidData
from foundry.core.system import user_path
from foundry.data.split import SplitText
from foundry.data.storage import hash_of
from foundry.data.tokenize import PretrainedParams
from foundry.data.tokenize.borders import word_borders
from foundry.data.tokenize.huggingface import byte_characters
from foundry.data.tokenize.spelling import utf8

IN_VIEW = 1000
"""Characters on each side of a place where a text may be cut."""
TRIES = 20
"""Places that are tried before a text is held to have none."""


class PretrainedTokenizer:
    """A `foundry.core.contracts.Tokenizer` around a tokenizer.json.

    Raises:
        EnvironmentFailure: the library `tokenizers` is not installed.
        InvalidData: the text is no tokenizer.json, or its decoder is one whose tokens have no bytes of their own.
    """

    def __init__(self, text: str, vocab_size: int, bos: int | None) -> None:
        try:
            from tokenizers import Tokenizer  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise EnvironmentFailure(
                "the tokenizer of a pretrained model needs the library tokenizers",
                "pip install 'foundry-data[pretrained]'",
            ) from error
        self._text, self.vocab_size, self._bos = text, vocab_size, bos
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise InvalidData(f"not a tokenizer.json: {error}") from error
        self._tokenizer.encode_special_tokens = True  # a text that spells a control token holds none
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._spelling  # noqa: B018 - refused now, and not when the first token is decoded

    @classmethod
    def wrapping(cls, text: str, *, vocab_size: int, bos: int | None) -> Self:
        """Of a tokenizer.json, for a model of `vocab_size` rows whose documents begin with the id `bos`."""
        return cls(text, vocab_size, bos)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return {} if self._bos is None else {"bos": self._bos}

    @cached_property
    def hash(self) -> str:
        return hash_of(self._plain())

    def encode(self, text: str) -> list[int]:
        utf8(text)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_array(self, text: str) -> np.ndarray:
        return np.array(self.encode(text), dtype=np.uint32)

    def border(self, text: str) -> int:
        """A place where the library cuts `text` into words too, and gives the same ids if it sees one side only.

        Exact for every tokenizer whose words depend on no more than IN_VIEW characters around them. One that has no
        words, or writes something before a text, is given whole documents.
        """
        for at in islice(word_borders(text[:-IN_VIEW]), TRIES):
            left, right = text[max(0, at - IN_VIEW) : at], text[at : at + IN_VIEW]
            if self._ends_a_word(left, right) and self.encode(left) + self.encode(right) == self.encode(left + right):
                return at
        return 0

    def _ends_a_word(self, left: str, right: str) -> bool:
        splitter = self._tokenizer.pre_tokenizer
        return splitter is not None and any(end == len(left) for _, (_, end) in splitter.pre_tokenize_str(left + right))

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        numbers = [operator.index(i) for i in ids]
        for i in numbers:
            if not 0 <= i < self.vocab_size:
                raise InvalidData(f"id {i} is not in this tokenizer's vocabulary of {self.vocab_size}")
        return b"".join(self._spelling[i] for i in numbers)

    def bytes_of(self, ids: Sequence[int] | np.ndarray) -> int:
        return int(self._lengths[np.asarray(ids, dtype=np.int64)].sum())

    def to_json(self) -> dict[str, Any]:
        return {**self._plain(), "hash": self.hash}

    def to_huggingface(self) -> dict[str, Any]:
        """The tokenizer.json itself."""
        saved: dict[str, Any] = json.loads(self._text)
        return saved

    def _plain(self) -> dict[str, Any]:
        return {"type": "pretrained", "vocab_size": self.vocab_size, "bos": self._bos, "tokenizer": self._text}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The tokenizer whose `to_json()` is `data`.

        Raises:
            InvalidData: it does not match its own hash.
        """
        plain = {key: value for key, value in data.items() if key != "hash"}
        if data.get("hash") != hash_of(plain):
            raise InvalidData("the tokenizer does not match its own hash: damaged, or edited by hand", "restore it")
        return cls(data["tokenizer"], data["vocab_size"], data["bos"])

    @classmethod
    def learn(cls, params: PretrainedParams, text: SplitText) -> Self:
        """Raises:
        InvalidData: `path` names no tokenizer.json, and the weights' own is not there either.
        """
        if params.path is None:
            raise InvalidData(
                "data.tokenizer: pretrained is the tokenizer of the weights that init_from names, and none are named",
                "set init_from, or the path of a tokenizer.json",
            )
        file = user_path(params.path)
        file = file / "tokenizer.json" if file.is_dir() else file
        try:
            saved = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidData(f"data.tokenizer.path: {file}: cannot be read: {error}") from error
        try:
            tokenizer = cls(saved, 0, None)
        except InvalidData as error:
            raise InvalidData(f"data.tokenizer.path: {file}: {error.message}", error.hint) from error
        bos = None if params.bos is None else tokenizer._tokenizer.token_to_id(params.bos)
        if params.bos is not None and bos is None:
            raise InvalidData(f"data.tokenizer.bos: {params.bos!r} is no token of {file}")
        return cls(saved, tokenizer._size, bos)

    @property
    def _size(self) -> int:
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        return max(vocabulary.values(), default=-1) + 1

    @cached_property
    def _spelling(self) -> list[bytes]:
        """The bytes of each id; none for a control token, and for an id that stands for nothing."""
        spell = _speller(json.loads(self._text).get("decoder"))
        spelling = [b""] * max(self.vocab_size, self._size)
        for token, number in self._tokenizer.get_vocab(with_added_tokens=False).items():
            spelling[number] = spell(token)
        for number, added in self._tokenizer.get_added_tokens_decoder().items():
            spelling[number] = b"" if added.special else added.content.encode()
        return spelling

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([len(spelling) for spelling in self._spelling], dtype=np.int64)


def _speller(decoder: Any) -> Any:
    """Token -> bytes, by what the decoder of a tokenizer.json is made of."""
    steps = _steps(decoder)
    if "ByteLevel" in steps:
        return _byte_level
    if steps <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return _sentencepiece
    raise InvalidData(f"a decoder of {', '.join(sorted(steps)) or 'no kind'} is not known to Foundry")


def _steps(decoder: Any) -> set[str]:
    if not isinstance(decoder, dict):
        return set()
    parts = decoder.get("decoders")
    return set().union(*map(_steps, parts)) if isinstance(parts, list) else {str(decoder.get("type"))}


def _byte_level(token: str) -> bytes:
    """By GPT-2's character for each byte; a token that has others stands for itself, as in the library."""
    if all(character in BYTE_OF for character in token):
        return bytes(BYTE_OF[character] for character in token)
    return token.encode()


def _sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}
