"""Foundry's own tokenizers as the files that Hugging Face's `tokenizers` and transformers read.

Each puts the special token `bos` before a text, as Foundry's generation does, and `eos` ends one. transformers reads a
text that spells a special token as that text, as Foundry does (`split_special_tokens`); `tokenizers` by itself has to
be told (`encode_special_tokens`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

NAME = "<|{}|>"
"""How a special token is spelled where it must be: Foundry's own have no spelling."""


def byte_characters() -> list[str]:
    """How byte-level vocabularies write each byte: itself where it can be seen, else a character from U+0100 on, in
    their order (GPT-2's `bytes_to_unicode`)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    spelled = {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return [spelled[byte] for byte in range(256)]


_CHARACTERS = byte_characters()


def byte_level(spelling: Sequence[bytes], pieces: str, special_tokens: Mapping[str, int]) -> dict[str, str]:
    """Byte-pair encoding whose id i stands for `spelling[i]`, the single bytes among them, and whose merges are in the
    order of the ids.

    Args:
        pieces: the regular expression of what merges never cross; empty: nothing is cut.
    """
    vocabulary = {_written(token): number for number, token in enumerate(spelling)}
    cut = [{"type": "Split", "pattern": {"Regex": pieces}, "behavior": "Isolated", "invert": False}] if pieces else []
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [list(pair) for pair in _merges(spelling)]}
    return _files(model, {"type": "Sequence", "pretokenizers": [*cut, level]}, level, special_tokens)


def characters(vocabulary: Iterable[str], special_tokens: Mapping[str, int]) -> dict[str, str]:
    """One id per character. One that the vocabulary lacks is an error in Foundry, and is left out by `tokenizers`."""
    model = {"type": "BPE", "vocab": {character: i for i, character in enumerate(vocabulary)}, "merges": []}
    return _files(model, None, {"type": "Fuse"}, special_tokens)


def _files(model: Any, pre_tokenizer: Any, decoder: Any, special_tokens: Mapping[str, int]) -> dict[str, str]:
    """Name -> text; `config.json` is the part that is about tokens.

    What fills up a batch is `bos`: no target is, so that who leaves padding out of a loss leaves out no `eos`.
    """
    own = {**special_tokens, "pad": special_tokens["bos"]}
    names = {f"{name}_token": NAME.format("bos" if name == "pad" else name) for name in own}
    numbers = {f"{name}_token_id": own.get(name) for name in ("bos", "eos", "pad")}
    files = {
        "tokenizer.json": _tokenizer(model, pre_tokenizer, decoder, special_tokens),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        | {"split_special_tokens": True, **names},
        "generation_config.json": {key: number for key, number in numbers.items() if number is not None},
        "config.json": numbers,
    }
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in files.items()}


def _tokenizer(model: Any, pre_tokenizer: Any, decoder: Any, special_tokens: Mapping[str, int]) -> dict[str, Any]:
    added = [
        {"id": number, "content": NAME.format(name), "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for name, number in special_tokens.items()
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _before(NAME.format("bos"), special_tokens["bos"]),
        "decoder": decoder,
        "model": {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
        | {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
        | model,
    }


def _before(token: str, number: int) -> dict[str, Any]:
    first, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, second],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }


def _merges(spelling: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    """Every way in which two tokens make a third, first those of the lowest id: as tiktoken merges, which asks only
    whether a pair is a token."""
    rank = {token: number for number, token in enumerate(spelling)}
    for token in spelling:
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in rank and pair[1] in rank]
        for left, right in sorted(known, key=lambda pair: (rank[pair[0]], rank[pair[1]])):
            yield _written(left), _written(right)


def _written(token: bytes) -> str:
    return "".join(_CHARACTERS[byte] for byte in token)
