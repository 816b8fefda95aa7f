"""Where a long text may be cut, so that its chunks, encoded one by one, give the ids of the whole.

A tokenizer says where by methods of its own:

    border(text) -> int     the last place found at which `text` may be cut, whatever follows it; 0: there is none.
                            `text` begins at such a place
    encode_chunk(text, goes_on) -> (N,) ids
                            as `encode`, of a chunk; `goes_on`: behind another one, not where the text begins

One without them is given whole documents.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator

CHUNK = 2**20
"""Characters from which on a text is cut."""
NEAR = 2**14
"""Characters before the end of a text among which a border is looked for."""

Border = Callable[[str], int]


def chunks(parts: Iterable[str], border: Border) -> Iterator[str]:
    """A text that comes in parts, cut anew. A chunk without a border grows until it has one."""
    held: list[str] = []
    size, enough = 0, CHUNK
    for part in parts:
        held.append(part)
        size += len(part)
        if size < enough:
            continue
        text = "".join(held)
        at = border(text)
        if at:
            yield text[:at]
        held, size = [text[at:]], len(text) - at
        enough = CHUNK + (
            0 if at else size
        )  # twice as long, so that a text is not searched again for each of its parts
    if size:
        yield "".join(held)


def nowhere(text: str) -> int:
    """The border of a tokenizer that says none."""
    return 0


def word_borders(text: str) -> Iterator[int]:
    """Places near the end, last first, where a word, a number or a line ends for certain: between characters of two
    kinds that Unicode has long told apart."""
    for at in range(len(text) - 1, max(0, len(text) - NEAR), -1):
        left, right = _kind(text[at - 1]), _kind(text[at])
        if left and right and _ends(left, right):
            yield at


def is_unknown(character: str) -> bool:
    """Whether only a newer Unicode may know it."""
    return unicodedata.category(character) == "Cn"


def _ends(left: str, right: str) -> bool:
    if left == "line":
        return right in ("letter", "number", "other")
    if left in ("letter", "number"):
        return right != left
    return left == "other" and right == "blank"


def _kind(character: str) -> str:
    """letter, number, blank, line (a line's end), other (punctuation, symbols, marks); empty for what a newer Unicode
    may call otherwise, and for control characters."""
    if character in "\r\n":
        return "line"
    if character in "\t\v\f\x85":
        return "blank"
    return _KINDS.get(unicodedata.category(character)[0], "")


_KINDS = {"L": "letter", "N": "number", "Z": "blank", "P": "other", "S": "other", "M": "other"}
