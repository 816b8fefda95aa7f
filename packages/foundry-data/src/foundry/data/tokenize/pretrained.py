"""The tokenizer of a pretrained model: a tokenizer.json, read by Hugging Face's `tokenizers`, and what the files
beside it say. They are kept as they are, and leave with the model as they came.

Its ids may be fewer than the model's rows (Qwen2 pads 151 646 to 151 936): `vocab_size` is the model's. The ids that
stand for nothing have an embedding; a model may choose them, and they spell nothing.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from foundry.core.contracts import EnvironmentFailure, InvalidData
from foundry.core.system import user_path
from foundry.data.split import SplitText
from foundry.data.storage import hash_of
from foundry.data.tokenize import PretrainedParams
from foundry.data.tokenize.borders import word_borders
from foundry.data.tokenize.control import Control, Said, control_of
from foundry.data.tokenize.pretrained_files import BY_CONTENT, BY_NUMBER, TOKENIZER, belongs, read, saying
from foundry.data.tokenize.spelled import Speller
from foundry.data.tokenize.spelling import unlike, utf8
from foundry.data.tokenize.tokenizer_json import prefix_of, rewriting_of, unk_of

IN_VIEW = 1000
"""Characters on each side of a place where a text may be cut."""
TRIES = 20
"""Places that are tried before a text is held to have none."""


class Table(NamedTuple):
    """What the ids spell."""

    later: list[bytes]
    first: dict[int, bytes]  # where a text begins with it, if that is something else
    silent: frozenset[int]  # control tokens, and ids that stand for nothing


class PretrainedTokenizer:
    """A `foundry.core.contracts.Tokenizer` around a tokenizer.json.

    Args:
        files: by name, as `pretrained_files.read` gives them.
        vocab_size: rows of the model; None: as many as there are ids.
        normalize: see PretrainedParams.

    Raises:
        EnvironmentFailure: the library `tokenizers` is not installed.
        InvalidData: the text is no tokenizer.json, or by its decoder tokens have no bytes of their own.
    """

    def __init__(self, files: Mapping[str, str], vocab_size: int | None = None, *, normalize: bool = False) -> None:
        try:
            from tokenizers import AddedToken, Tokenizer  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise EnvironmentFailure(
                "the tokenizer of a pretrained model needs the library tokenizers",
                "pip install 'foundry-data[pretrained]'",
            ) from error
        self._files, self._normalize = dict(files), normalize
        self._said = Said(*(json.loads(files.get(name, "{}")) for name in (*BY_CONTENT, *BY_NUMBER)))
        try:
            self._saved = json.loads(files[TOKENIZER])
            self._tokenizer = Tokenizer.from_str(files[TOKENIZER])
            self._size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
            for number, token in self._said.added_tokens():
                if number == self._size:  # as transformers adds what a tokenizer.json lacks
                    self._size += self._tokenizer.add_tokens([AddedToken(**token)])
        except Exception as error:  # the library raises nothing narrower
            raise InvalidData(f"not a tokenizer.json: {error}") from error
        self._tokenizer.encode_special_tokens = True  # a text that spells a control token holds none
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = self._size if vocab_size is None else vocab_size
        self._speller = Speller(self._saved, self._tokenizer.decoder)
        self._rewritten = rewriting_of(self._saved)

    @classmethod
    def of(cls, path: Path, vocab_size: int | None = None, *, normalize: bool = False) -> Self:
        """Of a tokenizer.json or its folder.

        Raises:
            InvalidData: a file cannot be read, or is not what its name says, or there are more ids than `vocab_size`.
        """
        file = path / TOKENIZER if path.is_dir() else path
        files = read(file)
        try:
            tokenizer = cls(files, vocab_size, normalize=normalize)
        except InvalidData as error:
            raise InvalidData(f"{file}: {error.message}", error.hint) from error
        if tokenizer._size > tokenizer.vocab_size:
            raise InvalidData(
                f"{file}: has ids up to {tokenizer._size - 1}, but its config.json says vocab_size {vocab_size}: they "
                "are not of one model",
                "fetch both from the same place",
            )
        return tokenizer

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return self._control.special_tokens

    @property
    def prefix(self) -> tuple[int, ...]:
        return self._control.prefix

    @property
    def stops(self) -> tuple[int, ...]:
        return self._control.stops

    @cached_property
    def hash(self) -> str:
        return hash_of(self._plain())

    def encode(self, text: str) -> list[int]:
        return self._exact(text, goes_on=False)

    def encode_chunk(self, text: str, goes_on: bool) -> np.ndarray:
        return np.array(self._exact(text, goes_on), dtype=np.uint32)

    def _exact(self, text: str, goes_on: bool) -> list[int]:
        utf8(text)
        if self._normalize:
            text = self._rewritten(text)
        ids = self._ids(text)
        if (spelled := self._bytes(ids, goes_on)) != text.encode():
            raise unlike(text, spelled, *self._reason(text, ids))
        return ids

    def _ids(self, text: str) -> list[int]:
        """The library's, which may lose a part of the text."""
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # such as of a vocabulary that has no token for what it lacks
            raise InvalidData(f"the tokenizer cannot read this text: {error}", "take another tokenizer") from error
        return ids

    def border(self, text: str) -> int:
        """A place where the library cuts `text` into words too, and gives the same ids if it sees one side only.

        Exact for every tokenizer whose words depend on no more than IN_VIEW characters around them. One that has no
        words, or writes something before a text, is given whole documents.
        """
        with suppress(InvalidData):  # a text that cannot be read is refused when it is
            for at in islice(word_borders(text[:-IN_VIEW]), TRIES):
                left, right = text[max(0, at - IN_VIEW) : at], text[at : at + IN_VIEW]
                if self._ends_a_word(left, right) and self._ids(left) + self._ids(right) == self._ids(left + right):
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
        return self._bytes(numbers)

    def _bytes(self, ids: list[int], goes_on: bool = False) -> bytes:
        later, first, silent = self._table
        if goes_on:
            return b"".join(map(later.__getitem__, ids))
        begin = next((place for place, i in enumerate(ids) if i not in silent), len(ids))
        start = b"".join(first.get(i, later[i]) for i in ids[begin : begin + 1])
        return start + b"".join(map(later.__getitem__, islice(ids, begin + 1, None)))

    def bytes_of(self, ids: Sequence[int] | np.ndarray) -> int:
        numbers = np.asarray(ids, dtype=np.int64)
        later, first, silent = self._table
        begin = next((i for i in map(int, numbers) if i not in silent), None)
        added = 0 if begin is None else len(first.get(begin, later[begin])) - len(later[begin])
        return int(self._lengths[numbers].sum()) + added

    @cached_property
    def _table(self) -> Table:
        size = max(self.vocab_size, self._size)
        later, first, speaking = [b""] * size, {}, set()
        for token, number in self._tokenizer.get_vocab(with_added_tokens=False).items():
            spelled = self._speller(token)
            later[number] = spelled.later
            speaking.add(number)
            if spelled.first != spelled.later:
                first[number] = spelled.first
        for number, added in self._tokenizer.get_added_tokens_decoder().items():
            first.pop(number, None)
            later[number] = added.content.encode()
            (speaking.discard if added.special else speaking.add)(number)
        speaking -= {i for name, i in self.special_tokens.items() if name in ("bos", "eos", "unk")}
        silent = frozenset(range(size)) - speaking
        for number in silent:
            later[number] = b""
        return Table(later, first, silent)

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([len(spelled) for spelled in self._table.later], dtype=np.int64)

    @cached_property
    def _control(self) -> Control:
        return control_of(
            self._said,
            vocab_size=self.vocab_size,
            prefix=prefix_of(self._saved),
            unk=unk_of(self._saved),
            id_of=self._tokenizer.token_to_id,
            is_text=self._is_text,
        )

    def _is_text(self, number: int) -> bool:
        token, added = self._tokenizer.id_to_token(number), self._tokenizer.get_added_tokens_decoder().get(number)
        if token is None or (added and added.special):
            return False
        text = token if added else self._speller(token).first.decode(errors="ignore")
        return number in self._tokenizer.encode(text, add_special_tokens=False).ids

    def _reason(self, text: str, ids: list[int]) -> tuple[str, str]:
        """Why the ids of a text do not spell it, and what to do."""
        if self._rewritten(text) != text:
            return "its normalizer rewrites text", (
                "rewrite it so before, or set data.tokenizer.normalize=true to train on what the tokenizer makes of it"
            )
        if self.special_tokens.get("unk") in ids:
            return "its vocabulary lacks that", "leave it out, or take a tokenizer that has it"
        return "it does not keep that", "leave it out, or take another tokenizer"

    def to_json(self) -> dict[str, Any]:
        return {**self._plain(), "hash": self.hash}

    def _plain(self) -> dict[str, Any]:
        more = {"normalize": True} if self._normalize else {}
        return {"type": "pretrained", "vocab_size": self.vocab_size, "files": self._files, **more}

    def to_huggingface(self) -> dict[str, str]:
        """The files themselves; `config.json` is the part that is about tokens."""
        return self._files

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PretrainedTokenizer:
        """The tokenizer whose `to_json()` is `data`.

        Raises:
            InvalidData: it does not match its own hash.
        """
        plain = {key: value for key, value in data.items() if key != "hash"}
        if data.get("hash") != hash_of(plain):
            raise InvalidData("the tokenizer does not match its own hash: damaged, or edited by hand", "restore it")
        if "files" not in data:
            return _BosAlone(data["tokenizer"], data["vocab_size"], data["bos"])
        if strangers := [name for name in data["files"] if not belongs(name)]:
            raise InvalidData(f"a pretrained tokenizer has no file {strangers[0]!r}")
        return cls(data["files"], data["vocab_size"], normalize=data.get("normalize", False))

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
        try:
            tokenizer = cls.of(user_path(params.path))
        except InvalidData as error:
            raise InvalidData(f"data.tokenizer.path: {error.message}", error.hint) from error
        # Without a class of its own, transformers would take the one of the architecture that the model leaves as.
        files = {"tokenizer_config.json": '{"tokenizer_class": "PreTrainedTokenizerFast"}', **tokenizer._files}
        for name, content in (("bos", params.bos), ("eos", params.eos)):
            if content is not None:
                if (number := tokenizer._tokenizer.token_to_id(content)) is None:
                    raise InvalidData(f"data.tokenizer.{name}: {content!r} is not a token of {params.path}")
                files = saying(files, name, content, number)
        return cls(files, normalize=params.normalize)


class _BosAlone(PretrainedTokenizer):
    """As runs were saved while bos was all that was known of control tokens: to go on as they began."""

    def __init__(self, text: str, vocab_size: int, bos: int | None) -> None:
        super().__init__({TOKENIZER: text}, vocab_size)
        self._bos = bos

    @cached_property
    def _control(self) -> Control:
        return Control({}, (), ()) if self._bos is None else Control({"bos": self._bos}, (), (self._bos,))

    def _plain(self) -> dict[str, Any]:
        return {
            "type": "pretrained",
            "vocab_size": self.vocab_size,
            "bos": self._bos,
            "tokenizer": self._files[TOKENIZER],
        }

    def to_huggingface(self) -> dict[str, str]:
        bos = None if self._bos is None else self._tokenizer.id_to_token(self._bos)
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos}
        ids = {"bos_token_id": self._bos, "eos_token_id": None, "pad_token_id": None}
        return self._files | {"tokenizer_config.json": json.dumps(about), "config.json": json.dumps(ids)}
