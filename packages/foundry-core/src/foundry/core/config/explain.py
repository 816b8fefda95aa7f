"""pydantic's errors in the words of someone who edits an experiment: what it got, what is valid, what was meant."""

from __future__ import annotations

import types
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from foundry.core.config.build_schema import experiment_model
from foundry.core.config.document import MAX_FAULTS, Document, Fault, Path, dotted
from foundry.core.config.fields import class_at, field_at
from foundry.core.config.merge import slot_at
from foundry.core.config.resolve import chosen
from foundry.core.registry import Registry

# What other trainers call it, where the letters are too different to guess.
ELSEWHERE = {
    "lr": "learning_rate",
    "d_model": "n_embd",
    "dim": "n_embd",
    "hidden_size": "n_embd",
    "hidden_dim": "n_embd",
    "depth": "n_layer",
    "num_layers": "n_layer",
    "num_hidden_layers": "n_layer",
    "num_heads": "n_head",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "seq_len": "block_size",
    "context_length": "block_size",
    "max_seq_len": "block_size",
    "max_steps": "max_iters",
    "steps": "max_iters",
    "max_norm": "grad_clip",
    "max_grad_norm": "grad_clip",
    "clip": "grad_clip",
    "rope_theta": "theta",
    "betas": "beta1",
    "wd": "weight_decay",
}


def explain(error: ValidationError, document: Document, registry: Registry) -> list[Fault]:
    """One fault per place, however many members of a union complained there, up to what is shown."""
    model = experiment_model(registry, chosen(document, registry))
    by_path: dict[Path, list[Any]] = {}
    for detail in error.errors(include_url=False):
        by_path.setdefault(_path(detail, document.data), []).append(detail)
    faults = []
    for path in sorted(by_path, key=lambda path: document.place(path)[1:3])[: MAX_FAULTS + 1]:
        details = by_path[path]
        kinds = {detail["type"] for detail in details}
        if kinds == {"extra_forbidden"}:
            message = _unknown_key(path, document, model, registry)
        elif kinds == {"missing"}:
            message = f"is missing; {_needs(path, model, document) or 'give it a value'}"
        elif kinds == {"union_tag_invalid"}:
            message = f"got the type {details[0]['ctx']['tag']!r}; needs {details[0]['ctx']['expected_tags']}"
        elif kinds == {"union_tag_not_found"}:
            message = "has no key `type`, which says what kind it is"
        else:
            message = _wrong_value(path, details, document, model)
        faults.append(document.fault(path, message))
    return faults


def _path(detail: Any, data: Any) -> Path:
    """pydantic's location, less the names of union members that it puts between the keys."""
    path: list[str | int] = []
    value = data
    for part in detail["loc"]:
        if (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            value = value[part]
        elif isinstance(value, dict) and part is detail["loc"][-1] and detail["type"] == "missing":
            value = None
        elif isinstance(value, dict | list):
            continue
        else:
            break
        path.append(part)
    return tuple(path)


# --------------------------------------------------------------------------------------------------------------------
# A key that nothing has


def _unknown_key(path: Path, document: Document, model: type[BaseModel], registry: Registry) -> str:
    key, here = str(path[-1]), path[:-1]
    siblings = list(class_at(here, model, document).model_fields)
    everywhere = dict(_keys(model, document))
    slot = slot_at(here, registry)
    meant = ELSEWHERE.get(key, key)
    if meant in siblings:
        return f"unknown key; did you mean {meant}?"
    if meant in everywhere:
        section, _, name = everywhere[meant].rpartition(".")
        if meant == key and "." not in section:
            return f"unknown key; `{name}` belongs to {section or 'the top of the file'}"
        return f"unknown key; did you mean {everywhere[meant]}?"
    if near := get_close_matches(key, siblings, n=2, cutoff=0.75):
        return f"unknown key; did you mean {' or '.join(near)}?"
    if slot and (owners := [n for n, v in registry.variants(slot).items() if meant in v.params.model_fields]):
        kind = document.get((*here, "type"))
        return f"unknown key; {meant} belongs to {slot} {' or '.join(owners)}, and this is {kind}"
    if near := get_close_matches(key, [*everywhere, *siblings], n=1, cutoff=0.65 if here else 0.8):
        return f"unknown key; did you mean {everywhere.get(near[0], near[0])}?"
    if here == () and key in ("data", "eval"):
        return f"unknown key; no installed package owns the section `{key}`"
    if path[0] == "layers" and len(path) == 3:
        return f"unknown key; a layer can choose its {', '.join(siblings)}"
    return f"unknown key; known: {', '.join(siblings) or 'none'}"


def _keys(model: type[BaseModel], document: Document, path: Path = ()) -> Iterator[tuple[str, str]]:
    """Key -> dotted path, of every field of the sections and of what is chosen in them; the outermost last."""
    names = [name for name in class_at(path, model, document).model_fields if name != "type"]
    for name in names:
        if name != "layers":
            yield from _keys(model, document, (*path, name))
    yield from ((name, dotted((*path, name))) for name in names)


# --------------------------------------------------------------------------------------------------------------------
# A value that a key cannot have


def _wrong_value(path: Path, details: list[Any], document: Document, model: type[BaseModel]) -> str:
    value = _value_at(path, document.data)
    if len(details) == 1 and details[0]["type"] in ("value_error", "assertion_error"):
        return f"got {got(value)}: {details[0]['ctx']['error']}"
    needed = _needs(path, model, document)
    if needed.startswith("needs text") and isinstance(value, bool | int | float):
        needed += "; put it in quotes"
    return f"got {got(value)}; {needed}" if needed else f"got {got(value)}; {details[0]['msg'].lower()}"


def got(value: Any) -> str:
    """A value as its author would recognise it, at most a line long."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {value if len(value) <= 40 else value[:40] + '...'!r}"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case float() if value != value or value in (float("inf"), float("-inf")):
            return f"{value}, which is not a finite number"
    return f"{value}" if abs(value) < 10**20 else f"{float(value) if abs(value) < 10**300 else 10**300:g}"


def _needs(path: Path, model: type[BaseModel], document: Document) -> str:
    """What is valid at `path`: "needs a whole number >= 1", or nothing if it cannot be said in short."""
    field = field_at(path, model, document)
    if field is None:
        return ""
    described = _describe(field.annotation, field.metadata)
    return f"needs {described}" if described else ""


def _describe(annotation: Any, metadata: Any = ()) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe(args[0], (*args[1:], *metadata))
    if origin in (Union, types.UnionType):
        members = dict.fromkeys(_describe(member, metadata) for member in args)
        return " or ".join(members) if all(members) else ""
    if origin is Literal:
        words = [str(value) for value in args]
        return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    if annotation in (None, type(None)):
        return "null"
    if (isinstance(annotation, type) and issubclass(annotation, BaseModel)) or origin is dict:
        return "a mapping"
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list"}
    kind = kinds.get(annotation) or kinds.get(origin, "")
    return kind + _bounds(metadata) if kind else ""


def _bounds(metadata: Any) -> str:
    """ " >= 1 and < 5" from annotated_types' Ge, Lt, ... or from a pydantic Field between."""
    bounds = []
    for item in metadata:
        if hasattr(item, "metadata"):
            return _bounds(item.metadata)
        for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("multiple_of", "a multiple of")):
            if getattr(item, attribute, None) is not None:
                bounds.append(f"{sign} {getattr(item, attribute)}")
        if pattern := getattr(item, "pattern", None):
            bounds.append(f"that matches {pattern}")
        if getattr(item, "min_length", None):
            bounds.append(f"of at least {item.min_length} characters")
        if getattr(item, "max_length", None):
            bounds.append(f"of at most {item.max_length} characters")
    return f" {' and '.join(bounds)}" if bounds else ""


def _value_at(path: Path, data: Any) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else data[part]
    return data
