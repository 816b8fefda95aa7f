"""Finding one's way in the schema: which field stands at a path of a document, and what it holds."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from foundry.core.config.document import Document, Path


def class_at(path: Path, model: type[BaseModel], document: Document) -> type[BaseModel]:
    """The model whose fields are the keys at `path`; plain BaseModel, which has none, where there is no such."""
    annotation: Any = model
    for depth, part in enumerate(path):
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        else:
            owner = _member(annotation, document.get((*path[:depth], "type")))
            field = owner.model_fields.get(str(part))
            annotation = field.annotation if field else None
    return _member(annotation, document.get((*path, "type")))


def field_at(path: Path, model: type[BaseModel], document: Document) -> FieldInfo | None:
    """The field whose value stands at `path`; None where the schema has none."""
    return class_at(path[:-1], model, document).model_fields.get(str(path[-1])) if path else None


def kinds_of(annotation: Any) -> Iterator[Any]:
    """What a field may hold, one after the other: classes, parametrised ones as `list[int]`, None, and the values of a
    `Literal`, which are no classes."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from kinds_of(args[0])
    elif origin in (Union, types.UnionType):
        for member in args:
            yield from kinds_of(member)
    elif origin is Literal:
        yield from args
    elif hasattr(annotation, "__value__"):  # `type Name = ...`
        yield from kinds_of(annotation.__value__)
    else:
        yield None if annotation is types.NoneType else annotation


def _member(annotation: Any, kind: Any) -> type[BaseModel]:
    """The model class in an annotation; of a union, the one whose `type` is `kind`."""
    if get_origin(annotation) is not None:
        members = [_member(each, kind) for each in get_args(annotation)]
        models = [each for each in members if each is not BaseModel]
        named = [each for each in models if "type" in each.model_fields and kind in _types(each)]
        return (named or models or [BaseModel])[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else BaseModel


def _types(choice: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(choice.model_fields["type"].annotation)
