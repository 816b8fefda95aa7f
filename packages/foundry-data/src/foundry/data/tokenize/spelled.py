"""What each id of a pretrained vocabulary spells, by the decoder in its tokenizer.json.

A decoder joins tokens to a text. By those that are known here, a token's part depends on nothing but whether the text
begins with it: Llama's takes away the blank that stood before the text, BERT's puts none before the first word.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from foundry.core.contracts import InvalidData
from foundry.data.tokenize.huggingface import byte_characters
from foundry.data.tokenize.tokenizer_json import Json, reads_a_blank_first, steps_of

KNOWN = {"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"}
BYTE_CHARACTERS = frozenset(byte_characters())
AS_LATIN_1 = {ord(character): chr(byte) for byte, character in enumerate(byte_characters())}
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_BEFORE = "x"
"""Some text that a token may follow."""


class Spelled(NamedTuple):
    """The bytes of one token."""

    first: bytes  # where a text begins with it
    later: bytes


class Speller:
    """Token -> Spelled, by a tokenizer.json.

    Args:
        decoder: the library's, or None.

    Raises:
        InvalidData: by this decoder, a token's part depends on more.
    """

    def __init__(self, saved: Json, decoder: Any) -> None:
        steps = list(steps_of(saved.get("decoder"), "decoders"))
        kinds = {str(step.get("type")) for step in steps}
        if (
            not kinds <= KNOWN
            or ("ByteLevel" in kinds and not kinds <= {"ByteLevel", "Fuse"})
            or any(step.get("stop") for step in steps)  # strips the end
        ):
            raise InvalidData(f"a decoder of {', '.join(sorted(kinds))} is not known to Foundry")
        self._decoder, self._blank_first = decoder, reads_a_blank_first(saved)
        self._byte_level, self._byte_fallback = "ByteLevel" in kinds, "ByteFallback" in kinds

    def __call__(self, token: str) -> Spelled:
        first, later = self._spelled(token)
        if self._blank_first and first == later:  # the decoder does not take it away
            first = later.removeprefix(b" ")
        return Spelled(first, later)

    def _spelled(self, token: str) -> tuple[bytes, bytes]:
        if self._byte_level:
            known = BYTE_CHARACTERS.issuperset(token)  # one with others stands for itself
            return (token.translate(AS_LATIN_1).encode("latin-1") if known else token.encode(),) * 2
        byte = _BYTE.fullmatch(token) if self._byte_fallback else None
        if byte and int(byte[1], 16) >= 0x80:  # part of a character: there is no text of it
            return (bytes.fromhex(byte[1]),) * 2
        return self._text(token).encode(), self._text(_BEFORE, token).removeprefix(_BEFORE).encode()

    def _text(self, *tokens: str) -> str:
        return str(self._decoder.decode(list(tokens))) if self._decoder else " ".join(tokens)
