"""Foundry's own tokenizers from their JSON. (A plugin's comes from its class: the registry knows it.)"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundry.core.contracts import InvalidData
from foundry.core.system import TOKENIZER_BYTES, read_regular
from foundry.data.tokenize.bpe import BPETokenizer
from foundry.data.tokenize.byte import ByteTokenizer
from foundry.data.tokenize.char import CharTokenizer
from foundry.data.tokenize.spelling import SpellingTokenizer

CLASSES: dict[str, type[SpellingTokenizer]] = {"byte": ByteTokenizer, "char": CharTokenizer, "bpe": BPETokenizer}


def load_tokenizer(source: str | Path | Mapping[str, Any]) -> SpellingTokenizer:
    """The tokenizer whose `to_json()` is `source`, or stands in the file (or the folder's tokenizer.json) `source`.

    Raises:
        InvalidData: the file is missing, not JSON, of an unknown type, or does not match its own hash.
    """
    if isinstance(source, Mapping):
        return _class_of(source).from_json(source)
    path = Path(source)
    if path.is_dir():
        path = path / "tokenizer.json"
    try:
        saved = json.loads(read_regular(path, TOKENIZER_BYTES))
        return _class_of(saved).from_json(saved)
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"{path}: not the JSON of a tokenizer: {error}") from error
    except InvalidData as error:
        raise InvalidData(f"{path}: {error.message}", error.hint) from error


def _class_of(saved: Any) -> type[SpellingTokenizer]:
    kind = saved.get("type") if isinstance(saved, Mapping) else saved
    if not isinstance(kind, str) or kind not in CLASSES:
        raise InvalidData(f"no tokenizer is of type {kind!r}", f"there are {', '.join(CLASSES)}")
    return CLASSES[kind]
