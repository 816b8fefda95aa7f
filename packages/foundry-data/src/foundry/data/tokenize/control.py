"""The control tokens of a pretrained model, by the files beside its tokenizer.json.

    special_tokens_map.json, tokenizer_config.json   by content; null says that there is none
    generation_config.json, config.json              by number; each of several eos_token_id ends a text

Each token by itself is looked for in one file after the other, as transformers does: GPT-2's tokenizer_config.json says
how long a text may be, and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

NAMES = ("bos", "eos", "pad", "unk")


class Said(NamedTuple):
    """The JSON of each file; empty where there is none."""

    tokenizer_config: Mapping[str, Any]
    special_tokens_map: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    config: Mapping[str, Any]

    def added_tokens(self) -> list[tuple[int, Mapping[str, Any]]]:
        """The tokens that tokenizer_config.json has, by their ids."""
        decoder = self.tokenizer_config.get("added_tokens_decoder", {})
        return sorted(((int(number), token) for number, token in decoder.items()), key=lambda pair: pair[0])

    def named(self, name: str) -> list[Any]:
        """What the files say of a token's content, first what counts most."""
        files = [self.special_tokens_map, self.tokenizer_config]
        if "added_tokens_decoder" in self.tokenizer_config:  # since when that file has all of it
            files.reverse()
        tokens = [file[f"{name}_token"] for file in files if f"{name}_token" in file]
        return [token.get("content") if isinstance(token, Mapping) else token for token in tokens]

    def numbered(self, name: str, vocab_size: int) -> list[int]:
        """The ids of the first file that has some for which there is a row."""
        for file in (self.generation_config, self.config):
            said = file.get(f"{name}_token_id")
            ids = [i for i in (said if isinstance(said, list) else [said]) if type(i) is int and 0 <= i < vocab_size]
            if ids:
                return list(dict.fromkeys(ids))
        return []


class Control(NamedTuple):
    """As of `foundry.core.contracts.Tokenizer`."""

    special_tokens: dict[str, int]
    stops: tuple[int, ...]
    prefix: tuple[int, ...]


def control_of(
    said: Said,
    *,
    vocab_size: int,
    prefix: Sequence[int],
    unk: str | None,
    id_of: Callable[[str], int | None],
    is_text: Callable[[int], bool],
) -> Control:
    """Where there is no bos, the eos that ends one document begins the next, as in GPT-2's training. A text ends at
    what the tokenizer calls eos, and at what transformers' `generate` ends one by, which are numbers.

    Args:
        prefix: what the tokenizer puts before a text.
        unk: what the vocabulary itself calls unknown.
        id_of: a token's content -> its id, or None.
        is_text: whether a text may have this id. Such a token may end a text, and never frames a document.
    """
    found: dict[str, int] = {}
    for name in NAMES:
        contents = said.named(name)
        if contents and contents[0] is None:
            continue
        known = (id_of(content) for content in contents if isinstance(content, str))
        numbers = [*(prefix if name == "bos" else ()), *said.numbered(name, vocab_size)]
        for i in (*(i for i in known if i is not None), *(i for i in numbers if not is_text(i))):
            found.setdefault(name, i)
    stops = said.numbered("eos", vocab_size)
    if "eos" in found:
        found.setdefault("bos", found["eos"])
        stops = list(dict.fromkeys([*stops, found["eos"]]))
    if unk is not None and (unknown := id_of(unk)) is not None:
        found.setdefault("unk", unknown)
    return Control(found, tuple(stops), tuple(prefix))
