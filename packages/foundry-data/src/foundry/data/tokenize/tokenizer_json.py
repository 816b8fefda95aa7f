"""What a tokenizer.json says, beside its vocabulary: what it makes of a text before it cuts it, and what it puts before
one. The format is that of Hugging Face's `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]


def steps_of(part: Any, parts: str) -> Iterator[Json]:
    """What one of its parts is made of: sequences, whose list has the name `parts`, are opened."""
    if isinstance(part, Mapping):
        inner = part.get(parts)
        if isinstance(inner, list):
            for each in inner:
                yield from steps_of(each, parts)
        else:
            yield part


def prefix_of(saved: Json) -> list[int]:
    """The ids that it puts before a text. What some put behind one, such as BERT's [SEP], no prompt ends with."""
    prefix: list[int] = []
    for step in steps_of(saved.get("post_processor"), "processors"):
        if "cls" in step:  # BertProcessing, RobertaProcessing: [token, id]
            prefix = [step["cls"][1], *prefix]
        before: list[int] = []
        for piece in step.get("single", []):  # TemplateProcessing
            if "SpecialToken" not in piece:
                break
            before += step["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
        prefix = before + prefix
    return prefix


def unk_of(saved: Json) -> str | None:
    """The token that stands for what the vocabulary lacks."""
    model = saved["model"]
    if model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    return model.get("unk_token")


def reads_a_blank_first(saved: Json) -> bool:
    """Whether a text is read as if a blank stood before it, as SentencePiece does by default."""
    steps = [*steps_of(saved.get("normalizer"), "normalizers"), *steps_of(saved.get("pre_tokenizer"), "pretokenizers")]
    return any(
        step.get("type") == "Prepend" or step.get("prepend_scheme", "never") != "never" or step.get("add_prefix_space")
        for step in steps
    )


def rewriting_of(saved: Json) -> Callable[[str], str]:
    """Text -> what its normalizer makes of it: NFC, NFKC, lower case, ... The blanks that a decoder undoes stay."""
    from tokenizers import Tokenizer

    steps = [step for step in steps_of(saved.get("normalizer"), "normalizers") if not _marks_blanks(step)]
    normalizer, model = {"type": "Sequence", "normalizers": steps}, {"type": "BPE", "vocab": {}, "merges": []}
    alone = {"version": "1.0", "added_tokens": [], "normalizer": normalizer, "model": model}
    rewrites: Callable[[str], str] = Tokenizer.from_str(json.dumps(alone)).normalizer.normalize_str
    return rewrites


def _marks_blanks(step: Json) -> bool:
    marks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return step.get("type") == "Prepend" or step == marks
