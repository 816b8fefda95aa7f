"""What a command line says of a setting: `--set KEY=TEXT`, `param SLOT.NAME=TEXT`.

    the field holds                                 what TEXT means
    text, a path, one of some words                 itself, whatever stands in it
    text or null                                    itself, but for `null`
    text or a number, true, false                   the number if it is one, else itself
    a number, true, false, null, a choice           that: 3e-4, gqa; nothing may stand beside it
    a list or mapping                               YAML, if it begins as one: [0.9, 0.95], {type: yarn, factor: 4};
                                                    where only text may be in it, every item is text: [2024, on]

The field is known once all documents are there: `data.dataset.path` is a field of the dataset that they choose.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from foundry.core.config.build_schema import experiment_model
from foundry.core.config.document import Document, Path
from foundry.core.config.fields import field_at, kinds_of
from foundry.core.config.merge import lay
from foundry.core.config.resolve import chosen, resolve
from foundry.core.config.sugar import long_way
from foundry.core.config.yaml import read_value, scalar
from foundry.core.contracts import InvalidExperiment
from foundry.core.registry import Registry


@dataclass(frozen=True)
class Written:
    """A value as it was typed, in a document that `read_written` has not read yet."""

    text: str
    source: str  # what messages call it

    def read(self, annotation: Any) -> Any:
        """The value that a field of this type has by it; None: the field is not known.

        Raises:
            InvalidExperiment: it is a broken list or mapping.
        """
        kinds = list(kinds_of(annotation))
        if self.text == "null" and None in kinds:
            return None
        may_have_parts = annotation is None or any(map(_has_parts, kinds))
        if may_have_parts and self.text.lstrip().startswith(("[", "{")):
            return read_value(self.text, self.source, only_text=any(map(_is_of_text, kinds)))
        if any(map(_is_text, kinds)):
            meant = scalar(self.text if any(map(_is_any_text, kinds)) else self.text.strip())
            is_meant = not isinstance(meant, str) and any(_is_number(meant, kind) for kind in kinds)
            return meant if is_meant else self.text
        return scalar(self.text.strip()) if self.text.strip() else self.text


def read_written(documents: Sequence[Document], registry: Registry) -> None:
    """Put in place of everything that is `Written` the value that it means.

    Raises:
        InvalidExperiment: it is a broken list or mapping.
    """
    found = [(document, path) for document in documents for path in _places(document.data)]
    if not found:
        return
    outline = _outline(documents, registry)
    model = experiment_model(registry, chosen(outline, registry))
    for document, path in found:
        field = field_at(long_way(path, registry), model, outline)
        document.set(path, document.get(path).read(field.annotation if field else None))


def _outline(documents: Sequence[Document], registry: Registry) -> Document:
    """The documents on top of each other, for the choices in them: no choice depends on a text."""
    copies = [Document(deepcopy(document.data), dict(document.places)) for document in documents]
    for copy in copies:
        for path in list(_places(copy.data)):
            with suppress(InvalidExperiment):  # it is a text, or broken: it is told when its field is known
                copy.set(path, copy.get(path).read(None))
    return resolve(lay(copies, registry)[0], registry)[0]


def _places(data: Any, path: Path = ()) -> Iterator[Path]:
    if isinstance(data, Written):
        yield path
    elif isinstance(data, dict):
        for key, item in data.items():
            yield from _places(item, (*path, key))


def _is_text(kind: Any) -> bool:
    """Whether a field of this kind holds text: `str`, a path, an enum of words, or a word of a `Literal`."""
    if isinstance(kind, type) and get_origin(kind) is None:
        if issubclass(kind, Enum):
            return all(isinstance(each.value, str) for each in kind)
        return issubclass(kind, str | os.PathLike)
    return isinstance(kind, str) or kind is os.PathLike


def _is_any_text(kind: Any) -> bool:
    """Whether a field of this kind holds whatever text there is: blanks around a number may be meant."""
    return _is_text(kind) and not isinstance(kind, str) and not (isinstance(kind, type) and issubclass(kind, Enum))


def _has_parts(kind: Any) -> bool:
    """Whether a field of this kind may hold a list or a mapping."""
    origin = get_origin(kind) or kind
    if kind is Any or not isinstance(origin, type):
        return kind is Any
    return issubclass(origin, Sequence | set | frozenset | Mapping | BaseModel) and not _is_text(origin)


def _is_of_text(kind: Any) -> bool:
    """Whether all that is in it is text."""
    items = [each for each in get_args(kind) if each is not Ellipsis]
    if _has_parts(kind) and issubclass(get_origin(kind) or kind, Mapping):
        items = items[1:]
    return _has_parts(kind) and bool(items) and all(_is_text(each) for item in items for each in kinds_of(item))


def _is_number(value: Any, kind: Any) -> bool:
    """Whether a scalar is a number or a truth value that a field of this kind holds."""
    if isinstance(kind, type):
        return type(value) is kind or (type(value) is int and kind is float)
    return type(value) in (bool, int, float) and type(value) is type(kind) and value == kind  # of a Literal
