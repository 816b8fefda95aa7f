"""HTML and SVG as a tree, so that what comes from plugins can only ever be text or the value of an attribute."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias
from xml.etree.ElementTree import Element, tostring

from foundry.core.printable import printable

Child: TypeAlias = "str | int | Element | Iterable[Child] | None"


def el(tag: str, *children: Child, **attributes: str | float | bool | None) -> Element:
    """An element. `class_` stands for class, `aria_label` for aria-label; None and False leave an attribute out."""
    node = Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            node.set(name.rstrip("_").replace("_", "-"), "" if value is True else text(value))
    for child in children:
        _append(node, child)
    return node


def html(node: Element) -> str:
    """The element as HTML."""
    return tostring(node, encoding="unicode", method="html")


def text(value: str | float) -> str:
    """What may stand in a page. Numbers of a drawing keep two digits after the point: a hundredth of a pixel."""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return printable(str(value))


def _append(node: Element, child: Child) -> None:
    match child:
        case None:
            pass
        case Element():
            node.append(child)
        case str() | int():
            if len(node):
                node[-1].tail = (node[-1].tail or "") + text(child)
            else:
                node.text = (node.text or "") + text(child)
        case _:
            for each in child:
                _append(node, each)
