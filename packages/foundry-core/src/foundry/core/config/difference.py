"""What differs between two experiments, as their author would say it: a setting by its value, another variant by what
one would write to choose it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from foundry.core.config.experiment import Experiment
from foundry.core.config.identity import default_of
from foundry.core.config.write_yaml import flow
from foundry.core.contracts import Params


@dataclass(frozen=True)
class Change:
    """One setting, or one choice of a variant, that differs between two experiments, every default filled in."""

    key: str
    before: Any
    """As JSON; a choice of another variant as its name, or a mapping with its `type` and what is not its default.
    None is null, or of a layer that it has no choice of its own."""
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {' -> '.join(self.shown)}"

    @property
    def shown(self) -> tuple[str, str]:
        """Both values as one would write them."""
        absent = "the model's" if self.key.startswith("layers.") else "null"
        before, after = (absent if value is None else flow(value) for value in (self.before, self.after))
        return before, after


def difference(before: Experiment, after: Experiment) -> list[Change]:
    """Everything that differs but the name, in the order of the schema."""
    return [change for change in _changes("", before, after) if change.key != "name"]


def leaves(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of plain data by its dotted path."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _changes(key: str, old: Any, new: Any) -> Iterator[Change]:
    inside, inside_new = _settings(old), _settings(new)
    if (inside or inside_new) and _type(old) == _type(new):
        for name in {**inside, **inside_new}:
            yield from _changes(f"{key}.{name}" if key else name, inside.get(name), inside_new.get(name))
    elif _written(old) != _written(new):
        yield Change(key, _written(old), _written(new))


def _settings(value: Any) -> dict[str, Any]:
    """What is in a section, a choice or `layers`, the leaves as JSON; nothing in a leaf."""
    if not isinstance(value, Params):
        return value if isinstance(value, dict) else {}
    leaves = value.model_dump(mode="json")
    items = {name: getattr(value, name) for name in type(value).model_fields}
    return {name: item if isinstance(item, Params | dict) else leaves[name] for name, item in items.items()}


def _type(value: Any) -> Any:
    """The variant's name; None where nothing was chosen."""
    return getattr(value, "type", None) if isinstance(value, Params) else None


def _written(value: Any) -> Any:
    """How one would write it: without defaults, and a variant that has nothing else by its name alone."""
    if not isinstance(value, Params):
        return value
    own = {name: _written(item) for name, item in _settings(value).items() if not _is_default(value, name)}
    kind = _type(value)
    if kind is None:
        return own
    return {"type": kind, **own} if own else kind


def _is_default(params: Params, name: str) -> bool:
    field = type(params).model_fields[name]
    return name == "type" or (not field.is_required() and bool(getattr(params, name) == default_of(field)))
