"""A corpus is tokenized once, into memory-mapped shards that later starts only verify.

    CACHE/tokenizers/KEY.json     what was learned from a text: KEY = hash of (text, split, what was asked for)
    CACHE/corpora/KEY/            see foundry.data.shards: KEY = hash of (text, split, tokenizer)

A folder appears under its name only when it is complete; a process that dies before leaves a `.part` that the next one
sweeps. Of several processes that want the same corpus one prepares it, and the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foundry.core.contracts import InvalidData, Params, Tokenizer
from foundry.core.system import TOKENIZER_BYTES, cache_folder, locked, move_folder, read_regular, sync_folder
from foundry.data.corpora import Dataset
from foundry.data.params import DataParams, variant_of
from foundry.data.shards import (
    SCHEMA,
    PartWriter,
    TokenPart,
    read_manifest,
    token_dtype,
    write_manifest,
)
from foundry.data.split import PARTS, Part, Piece, SplitText
from foundry.data.storage import hash_of, write_atomically, writing
from foundry.data.tokenize import TokenizerClass
from foundry.data.tokenize.borders import chunks, nowhere
from foundry.data.tokenize.spelling import unlike

Progress = Callable[[str], None]


class Prepared(NamedTuple):
    """A corpus as token shards."""

    folder: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer

    @property
    def fingerprint(self) -> str:
        """sha256 over the tokens, the split and the tokenizer: equal wherever the same text was prepared."""
        return str(self.manifest["fingerprint"])

    def part(self, name: Part) -> TokenPart:
        return TokenPart(self.folder, name, self.manifest["data"])


def prepare(params: DataParams, *, tokenizer: Tokenizer | None = None, progress: Progress | None = None) -> Prepared:
    """Tokenize the corpus of `params` into the cache, unless it already exists, and verify what is there.

    `tokenizer` takes the place of the one that `params` asks for.

    Raises:
        InvalidData: the text cannot be used; the message names the file and the place.
        EnvironmentFailure: the cache cannot be written: disk full, folder read-only.
    """
    say = progress or (lambda message: None)
    cache = cache_folder(params.cache)
    dataset: Dataset = variant_of(params.dataset).load()(params.dataset, cache)
    text = SplitText(dataset, params.val_fraction)
    source = {"text": dataset.fingerprint, "reader": _source_of(type(dataset)), "val_fraction": params.val_fraction}
    tokenizer = tokenizer or _learned(params.tokenizer, text, source, cache, say)
    key = hash_of({"schema": SCHEMA, **source, "tokenizer": tokenizer.hash, "encoder": _source_of(type(tokenizer))})
    folder = cache / "corpora" / key

    manifest = _usable(folder, say)
    if manifest is None:
        with _only_one(folder, say):
            manifest = _usable(folder, lambda _: None)  # another process may have prepared it while we waited
            if manifest is None:
                _write(folder, text, tokenizer, say)
                manifest = read_manifest(folder)
    return Prepared(folder, manifest, tokenizer)


def _learned(choice: Params, text: SplitText, source: dict[str, Any], cache: Path, say: Progress) -> Tokenizer:
    """The tokenizer that `choice` stands for. What had to be learned from the text is kept for the next start."""
    variant = variant_of(choice)
    tokenizer_class: TokenizerClass = variant.load()
    if not hasattr(tokenizer_class, "fit"):
        return tokenizer_class.learn(choice, text)
    asked = [variant.name, choice.model_dump(mode="json", exclude={"type"}), _source_of(tokenizer_class)]
    path = cache / "tokenizers" / f"{hash_of({'schema': SCHEMA, **source, 'tokenizer': asked})}.json"
    if path.exists():
        try:
            return tokenizer_class.from_json(json.loads(read_regular(path, TOKENIZER_BYTES)))
        except (InvalidData, OSError, ValueError, RecursionError) as error:
            say(f"{path}: {str(error).splitlines()[0]}; learning it again")
    say(f"learning the {variant.name} tokenizer")
    tokenizer = tokenizer_class.learn(choice, text)
    write_atomically(path, json.dumps(tokenizer.to_json()).encode())
    return tokenizer


def _usable(folder: Path, say: Progress) -> dict[str, Any] | None:
    if not folder.exists():
        return None
    try:
        return read_manifest(folder)
    except InvalidData as error:
        say(f"{error.message}; preparing the corpus again")
        return None


@contextlib.contextmanager
def _only_one(folder: Path, say: Progress) -> Iterator[None]:
    """Waits until no other process prepares `folder`. The system releases the lock of one that is killed."""
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock"), waiting=lambda who: say(f"waiting for this corpus: {who}")):
        yield


def _write(folder: Path, text: SplitText, tokenizer: Tokenizer, say: Progress) -> None:
    staged = folder.with_name(f"{folder.name}.part")
    with writing(staged):
        shutil.rmtree(staged, ignore_errors=True)  # of one that was killed: we hold the lock
        staged.mkdir()
        try:
            manifest = _tokenize(staged, text, tokenizer, say)
            write_manifest(staged, manifest)
            sync_folder(staged)
            shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would have been used
            move_folder(staged, folder)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise


def _tokenize(folder: Path, text: SplitText, tokenizer: Tokenizer, say: Progress) -> dict[str, Any]:
    """Write the shards into `folder`; returns the manifest."""
    dtype = token_dtype(tokenizer.vocab_size)
    writers = {part: PartWriter(folder, part, dtype) for part in PARTS}
    report = _Report(f"tokenizing {text.documents} documents", text.characters, say)
    for piece in text.pieces():
        writers[piece.part].add(_document(piece, tokenizer, report))
    parts = {part: writer.close() for part, writer in writers.items()}
    write_atomically(folder / "tokenizer.json", json.dumps(tokenizer.to_json()).encode())
    data = {"parts": parts, "dtype": dtype.str, "tokenizer": tokenizer.hash}
    origin = {
        "text": text.dataset.fingerprint,
        "documents": text.documents,
        "characters": text.characters,
        "val_fraction": text.val_fraction,
    }
    targets = [parts[part]["tokens"] - parts[part]["documents"] for part in PARTS]  # the first of each is none
    counts = f"{targets[0]} tokens to train on, {targets[1]} to validate"
    say(f"prepared {text.documents} documents (text {text.dataset.fingerprint[:12]}): {counts}")
    return {"schema": SCHEMA, "fingerprint": hash_of(data), "data": data, "origin": origin}


def _document(piece: Piece, tokenizer: Tokenizer, report: _Report) -> Iterator[np.ndarray]:
    """The ids of a piece, chunk by chunk: never all of them at once, nor all of its text. What frames a document stands
    where it begins and where it ends."""
    frame = tokenizer.special_tokens
    if piece.start == 0 and "bos" in frame:
        yield np.array([frame["bos"]])
    before = piece.start
    for chunk in chunks(piece.parts, getattr(tokenizer, "border", nowhere)):
        try:
            yield _encode(tokenizer, chunk, goes_on=before > piece.start)
        except InvalidData as error:
            place = f"{piece.name}, from character {before} on" if before else piece.name
            raise InvalidData(f"{place}: {error.message}", error.hint) from error
        before += len(chunk)
        report.advance(len(chunk))
    if piece.ends_document and "eos" in frame:
        yield np.array([frame["eos"]])


def _encode(tokenizer: Tokenizer, text: str, goes_on: bool) -> np.ndarray:
    """Ids of the text. Ours give an array that spells it; a plugin's tokenizer may know lists alone, and is asked."""
    ours = getattr(tokenizer, "encode_chunk", None)
    tokens: np.ndarray = ours(text, goes_on) if ours else np.asarray(tokenizer.encode(text), np.int64)
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < tokenizer.vocab_size:
        raise InvalidData(f"the tokenizer gave ids outside its vocabulary of {tokenizer.vocab_size}")
    if not ours and (spelled := tokenizer.decode_bytes(tokens.tolist())) != text.encode():
        raise unlike(text, spelled, "it does not keep that", "leave it out, or take another tokenizer")
    return tokens


class _Report:
    """Says how far it is, at most once a second, and nothing of what takes less."""

    def __init__(self, what: str, total: int, say: Progress) -> None:
        self.what, self.total, self.say = what, total, say
        self.done, self.last = 0, time.monotonic()

    def advance(self, amount: int) -> None:
        self.done += amount
        if time.monotonic() - self.last > 1:
            self.last = time.monotonic()
            self.say(f"{self.what}: {100 * self.done // self.total} %")


def _source_of(cls: Any) -> str:
    """sha256 of the file that the class `cls` is written in: an edited reader or encoder never meets old shards."""
    file = getattr(sys.modules[cls.__module__], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
