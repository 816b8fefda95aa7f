"""Tokenizers from their JSON, verified against the hash in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundry.core.contracts import InvalidData
from foundry.data.tokenize.bpe import BPETokenizer
from foundry.data.tokenize.byte import ByteTokenizer
from foundry.data.tokenize.char import CharTokenizer
from foundry.data.tokenize.spelling import SpellingTokenizer, hash_of

CLASSES: dict[str, type[SpellingTokenizer]] = {"byte": ByteTokenizer, "char": CharTokenizer, "bpe": BPETokenizer}


def load_tokenizer(source: str | Path | Mapping[str, Any]) -> SpellingTokenizer:
    """The tokenizer whose `to_json()` is `source`, or stands in the file (or the folder's tokenizer.json) `source`.

    Raises:
        InvalidData: the file is missing, not JSON, of an unknown type, or does not match its own hash.
    """
    if isinstance(source, Mapping):
        return _from_json(dict(source), "tokenizer")
    path = Path(source)
    if path.is_dir():
        path = path / "tokenizer.json"
    try:
        saved = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"{path}: not the JSON of a tokenizer: {error}") from error
    return _from_json(saved, str(path))


def _from_json(saved: Any, where: str) -> SpellingTokenizer:
    if not isinstance(saved, dict) or saved.get("type") not in CLASSES:
        kind = saved.get("type") if isinstance(saved, dict) else saved
        raise InvalidData(f"{where}: no tokenizer of type {kind!r}; there are {', '.join(CLASSES)}")
    plain = {key: value for key, value in saved.items() if key != "hash"}
    if saved.get("hash") != hash_of(plain):
        raise InvalidData(f"{where}: does not match its own hash: damaged, or edited by hand", "restore the file")
    try:
        tokenizer = CLASSES[saved["type"]].from_vocabulary(plain)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidData(f"{where}: not the vocabulary of a {saved['type']} tokenizer: {error!r}") from error
    if tokenizer.hash != saved["hash"]:
        raise InvalidData(f"{where}: this version of Foundry would encode differently than the one that wrote it")
    return tokenizer
