"""Text that others wrote, a model among them, as a terminal or a page may have it: seen, and never obeyed."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]|\r(?!\n)"
)
"""What is no text, what a terminal takes for a command, and the marks that show text in another order than it is
written (the Trojan Source of CVE-2021-42574)."""


def printable(text: str) -> str:
    """The text with all of that in a visible form, `\\x1b`. Tabs and the ends of lines stay."""
    if text.isprintable():  # of 100,000 short texts the pattern takes 0.1 s
        return text
    return _UNPRINTABLE.sub(_visible, text)


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
