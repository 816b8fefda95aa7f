"""HTML and SVG as text that only `el` makes, so that what comes from plugins can only ever be text or the value of an
attribute."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from typing import TypeAlias

from foundry.core.printable import printable


class Markup(str):
    """An element as HTML. Whatever is put together of it otherwise than by `el` is text again, and escaped."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"
VOID = ("input",)
"""Elements of the page that have no end tag."""


def el(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """An element. `class_` stands for class, `aria_label` for aria-label; None and False leave an attribute out."""
    written = [
        f' {_attribute(name)}="{_quoted(value)}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    ]
    end = "" if tag in VOID else f"</{tag}>"
    return Markup(f"<{tag}{''.join(written)}>{''.join(map(_content, children))}{end}")


def text(value: str | float) -> str:
    """What may stand in a page. Numbers of a drawing keep two digits after the point: a hundredth of a pixel."""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return printable(str(value))


def escaped(value: str | int) -> str:
    """The value as text between tags."""
    return text(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@cache
def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


@lru_cache(maxsize=2048, typed=True)  # typed: True is no 1
def _quoted(value: str | float | bool) -> str:
    return "" if value is True else text(value).replace("&", "&amp;").replace(">", "&gt;").replace('"', "&quot;")


def _content(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    return escaped(child) if isinstance(child, str | int) else "".join(map(_content, child))
