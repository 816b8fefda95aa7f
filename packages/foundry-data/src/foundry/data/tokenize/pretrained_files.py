"""The files that a pretrained tokenizer comes in, and leaves in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from foundry.core.contracts import InvalidData
from foundry.core.system import TOKENIZER_BYTES, read_regular

TOKENIZER, CONFIG = "tokenizer.json", "config.json"
CONFIG_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""What is kept of config.json; the rest is the model's."""
BY_CONTENT = ("tokenizer_config.json", "special_tokens_map.json")
BY_NUMBER = ("generation_config.json", CONFIG)
OTHERS = ("added_tokens.json", "chat_template.jinja", "additional_chat_templates/*.jinja")


def read(file: Path) -> dict[str, str]:
    """Name -> text of a tokenizer.json and of what lies beside it. By any other name, it is by itself.

    Raises:
        InvalidData: one cannot be read, or is no JSON.
    """
    files = {TOKENIZER: _text(file)}
    if file.name == TOKENIZER:
        for pattern in (*BY_CONTENT, *BY_NUMBER, *OTHERS):
            for beside in sorted(file.parent.glob(pattern)):
                files[beside.relative_to(file.parent).as_posix()] = _text(beside)
    if CONFIG in files:
        config = json.loads(files[CONFIG])
        files[CONFIG] = json.dumps({key: config[key] for key in CONFIG_KEYS if key in config})
    return files


def _text(file: Path) -> str:
    try:
        text = read_regular(file, TOKENIZER_BYTES).decode()
        if file.suffix == ".json" and not isinstance(json.loads(text), dict):
            raise ValueError("it holds no object")
    except OSError as error:
        raise InvalidData(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"{file}: damaged: {error}") from error
    return text


def saying(files: Mapping[str, str], name: str, content: str, number: int) -> dict[str, str]:
    """The files, of which each that can say what the bos (or eos) is says that it is this token."""
    said: dict[str, dict[str, str | int]] = {file: {f"{name}_token": content} for file in BY_CONTENT}
    said |= {file: {f"{name}_token_id": number} for file in BY_NUMBER}
    return {file: json.dumps(json.loads(text) | said[file]) if file in said else text for file, text in files.items()}


def belongs(name: str) -> bool:
    """Whether a tokenizer may have a file of this name: who leaves with what others wrote writes nothing else."""
    names = {TOKENIZER, *BY_CONTENT, *BY_NUMBER, *OTHERS}
    return name in names or re.fullmatch(r"additional_chat_templates/[^/]+\.jinja", name) is not None
