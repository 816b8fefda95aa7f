"""A tree of settings in which every value remembers where it was written: in which file, or in which `--set`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from foundry.core.contracts import InvalidExperiment

Path: TypeAlias = tuple[str | int, ...]
"""("model_args", "attention", "n_kv_head"): the keys and list indices that lead to a value."""

MAX_FAULTS = 50


class Place(NamedTuple):
    """Where something was written. Line and column count from 1; 0 = not known."""

    source: str  # a file as the user named it, or the whole `--set ...`; empty: what the message is about anyway
    line: int = 0
    column: int = 0
    key: str = ""  # the dotted key as it was written, where sugar has moved the value elsewhere

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Fault(NamedTuple):
    """One thing that is wrong with an experiment."""

    place: Place
    key: str  # as it was written
    message: str
    path: Path = ()  # of the value, once sugar is gone

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.place), self.key, self.message)))


def dotted(path: Path) -> str:
    return ".".join(map(str, path))


@dataclass
class Document:
    """Settings as plain data, and the place of every path in them."""

    data: Any
    places: dict[Path, Place] = field(default_factory=dict)

    def place(self, path: Path) -> Place:
        """Where `path` was written, or the nearest thing around it that was written."""
        while path not in self.places and path:
            path = path[:-1]
        return self.places.get(path, Place("experiment"))

    def fault(self, path: Path, message: str, beside: Iterable[Path] = ()) -> Fault:
        """A fault of the value at `path`, under the key that its author wrote.

        Args:
            beside: values that it contradicts. Who wrote the last of them, in the topmost document, is shown the place.
        """
        written = self.places.get(path)
        order = {place.source: number for number, place in enumerate(self.places.values())}
        last = max([path, *beside], key=lambda each: order.get(self.place(each).source, -1))
        return Fault(self.place(last), (written.key if written else "") or dotted(path), message, path)

    def get(self, path: Path, default: Any = None) -> Any:
        value = self.data
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    def set(self, path: Path, value: Any, place: Place | None = None) -> None:
        """Put `value` at `path`, making the mappings on the way. Only over mappings, never over another value."""
        target = self.data
        for depth, key in enumerate(path[:-1], 1):
            if key not in target:
                target[key] = {}
                if place is not None:
                    self.places[path[:depth]] = place
            target = target[key]
        target[path[-1]] = value
        if place is not None:
            self.places[path] = place

    def drop(self, path: Path) -> None:
        self.forget(path)
        parent = self.get(path[:-1])
        if isinstance(parent, dict):
            parent.pop(path[-1], None)

    def forget(self, path: Path) -> None:
        """Drop the places of `path` and of everything that is still in it."""
        self._forget(path, self.get(path))

    def _forget(self, path: Path, value: Any) -> None:
        self.places.pop(path, None)
        for key, item in items(value):
            self._forget((*path, key), item)

    def move(self, old: Path, new: Path) -> None:
        """Put what stands at `old` to `new`; messages go on naming it as it was written."""
        value = self.get(old)
        self.places.setdefault(old, self.place(old))
        moved = {new + path[len(old) :]: place for path, place in self.places.items() if path[: len(old)] == old}
        self.drop(old)
        self.set(new, value)
        for path, place in moved.items():
            self.places[path] = place._replace(key=place.key or dotted(old + path[len(new) :]))


def items(value: Any) -> Iterable[tuple[str | int, Any]]:
    """What is in a mapping or a list, by key or by index."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def raise_faults(faults: list[Fault], sources: list[str]) -> None:
    """Raise all faults as one error, in the order of their places.

    Raises:
        InvalidExperiment: there is at least one.
    """
    if not faults:
        return
    order = {source: rank for rank, source in enumerate(sources)}
    faults = sorted(dict.fromkeys(faults), key=lambda f: (order.get(f.place.source, len(order)), f.place[1:3], f.key))
    lines = [str(fault) for fault in faults[:MAX_FAULTS]]
    if len(faults) > MAX_FAULTS:
        lines.append("... and more")
    raise InvalidExperiment("\n".join(lines))
