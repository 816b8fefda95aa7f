"""The slot `tokenizer`: one file per tokenizer. This file imports neither torch nor numpy; the classes come when asked.

from foundry.data.tokenize import BPETokenizer
tok = BPETokenizer(vocab_size=4096)
tok.fit(corpus)
tok.encode("hello world")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from foundry.core.contracts import Params, Tokenizer, Variant

if TYPE_CHECKING:
    from foundry.data.split import SplitText
    from foundry.data.tokenize.bpe import BPETokenizer
    from foundry.data.tokenize.byte import ByteTokenizer
    from foundry.data.tokenize.char import CharTokenizer
    from foundry.data.tokenize.files import load_tokenizer

__all__ = ["VARIANTS", "BPETokenizer", "ByteTokenizer", "CharTokenizer", "load_tokenizer"]

_HOME = {
    "BPETokenizer": "bpe",
    "ByteTokenizer": "byte",
    "CharTokenizer": "char",
    "load_tokenizer": "files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


class TokenizerClass(Protocol):
    """Slot `tokenizer`; the target is the class itself. One that has a method `fit` is learned once per text."""

    def learn(self, params: Any, text: SplitText) -> Tokenizer:
        """Classmethod: the tokenizer that `params` ask for, with what it must know of the text."""

    def from_json(self, data: dict[str, Any]) -> Tokenizer:
        """Classmethod: the tokenizer whose `to_json()` is `data`. Raises InvalidData for any other."""


class ByteParams(Params):
    """The 256 bytes of UTF-8."""


class CharParams(Params):
    """The characters that occur in the corpus."""


class BPEParams(Params):
    """Byte-pair encoding learned from the training text."""

    vocab_size: int = Field(4096, ge=258, le=2**24, description="ids in all: 256 bytes, the merges, 2 special tokens")


class PretrainedParams(Params):
    """A pretrained model's own."""

    path: str | None = Field(
        None, description="a tokenizer.json or its folder; null: the one of the weights that init_from names"
    )
    bos: str | None = Field(
        None, description="with path: the token that every document begins with; null: as the files beside it say"
    )
    eos: str | None = Field(None, description="with path: the token that ends every document; null: as for bos")
    normalize: bool = Field(
        False,
        description="let the tokenizer's normalizer rewrite the text (NFC, lower case, ...) before training; otherwise "
        "a text that it would rewrite is refused",
    )


VARIANTS = [
    Variant(
        slot="tokenizer",
        name="byte",
        target="foundry.data.tokenize.byte:ByteTokenizer",
        params=ByteParams,
        summary="the 256 bytes of UTF-8: nothing to learn, nothing it cannot spell",
    ),
    Variant(
        slot="tokenizer",
        name="char",
        target="foundry.data.tokenize.char:CharTokenizer",
        params=CharParams,
        summary="the characters that occur in the corpus",
    ),
    Variant(
        slot="tokenizer",
        name="bpe",
        target="foundry.data.tokenize.bpe:BPETokenizer",
        params=BPEParams,
        summary="byte-pair encoding, learned from the training text",
        reference="arXiv:1508.07909",
    ),
    Variant(
        slot="tokenizer",
        name="pretrained",
        target="foundry.data.tokenize.pretrained:PretrainedTokenizer",
        params=PretrainedParams,
        summary="a pretrained model's own, of its tokenizer.json",
    ),
]
