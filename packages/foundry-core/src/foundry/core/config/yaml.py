"""Reads YAML into a `Document`, without YAML 1.1's surprises.

Only plain data: mappings with text keys, lists, text, numbers, true, false, null. `1e-3` is a number, and one written
with an exponent that is whole (`1e9`, `1.5e6`) is a whole number; `on`, `no`, `012`, `1:30` and `0x1f` are text, which
a field that wants a number or a truth value refuses by name. Duplicate keys, tags, more than one document, and aliases
that multiply are errors. Built from the parser's events, so that nothing hostile is ever held in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any, NoReturn

import yaml

from foundry.core.config.document import Document, Fault, Path, Place
from foundry.core.contracts import InvalidExperiment
from foundry.core.system.files import UnfitFile, read_regular

MAX_BYTES = 1_000_000  # of any experiment
MAX_DEPTH = 32
MAX_VALUES = 5_000  # after aliases are expanded; a large experiment has a few hundred

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is 8 times faster, where it is there
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)")
_NUMBER = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]*(?:_[0-9]+)*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_CONSTANTS = {"": None, "~": None, "true": True, "false": False}
_CONSTANTS |= {spelling: None for spelling in ("null", "Null", "NULL")}
_CONSTANTS |= {spelling: spelling.lower() == "true" for spelling in ("True", "TRUE", "False", "FALSE")}


def read_file(path: File) -> Document:
    """The content of a YAML file whose root is a mapping.

    Raises:
        InvalidExperiment: it cannot be read, or is not such a file.
    """
    source = str(path)
    try:
        content = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        _refuse(source, "there is no such file")
    except IsADirectoryError:
        _refuse(source, "is a directory, not an experiment file")
    except UnfitFile as error:
        _refuse(source, str(error.strerror))
    except (OSError, ValueError) as error:
        _refuse(source, f"cannot be read: {getattr(error, 'strerror', None) or error}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", errors="replace")
        _refuse(_at(source, before), f"byte 0x{content[error.start]:02x} is not UTF-8 text")
    return read_text(text, source)


def read_text(text: str, source: str) -> Document:
    """The same for text that did not come from a file. An empty text is an error: it is no experiment."""
    reader = _Reader(text, source)
    root = reader.root()
    if root is None or root.content is None:
        _refuse(Place(source, 1, 1), "is empty; the smallest experiment is `seed: 1337`")
    if not isinstance(root.content, dict):
        _refuse(root.place, f"is {_kind(root.content)}, not a mapping of keys such as `training:`")
    return reader.document(root)


def read_value(text: str, source: str, *, only_text: bool = False) -> Any:
    """A scalar or a flow list or mapping, as a command line has it. An empty text is null.

    Args:
        only_text: every scalar in it is text, whatever it looks like.

    Raises:
        InvalidExperiment: it is not YAML.
    """
    reader = _Reader(text, source, located=False, only_text=only_text)
    root = reader.root()
    return None if root is None else reader.document(root).data


def scalar(text: str) -> Any:
    """What an unquoted scalar means."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) <= 40 and _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        number = float(re.sub(r"\.(?=inf|nan)", "", text.replace("_", "").lower()))
        is_whole = "e" in text.lower() and abs(number) < 2**53 and number.is_integer()
        return int(number) if is_whole else number
    return text


@dataclass
class _Node:
    content: Any  # a scalar, a list of nodes, or a dict: key -> (the key's place, node)
    place: Place
    size: int = 1  # values in it, itself included


class _Reader:
    def __init__(self, text: str, source: str, *, located: bool = True, only_text: bool = False) -> None:
        self.source, self.located, self.only_text = source, located, only_text
        self.anchors: dict[str, _Node | None] = {}  # None while the node is still being read
        unreadable = _UNREADABLE.search(text)
        if unreadable:
            place = _at(source, text[: unreadable.start()]) if located else Place(source)
            _refuse(place, f"character U+{ord(unreadable[0]):04X} is not text; is this a binary file?")
        self.events = self._parse(text)

    def root(self) -> _Node | None:
        root = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                _refuse(self._place(event), "a second document begins here; an experiment is one")
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event, 0)
        return root

    def document(self, root: _Node) -> Document:
        document = Document(None, {(): root.place})
        document.data = self._unfold(root, (), document.places)
        return document

    def _parse(self, text: str) -> Iterator[Any]:
        try:
            yield from yaml.parse(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = self._place_of(mark) if mark else Place(self.source)
            _refuse(place, _explain(error, text))
        except yaml.YAMLError as error:
            _refuse(self.source, f"is not YAML: {error}")

    def _node(self, event: Any, depth: int) -> _Node:
        place = self._place(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, place)
        if depth > MAX_DEPTH:
            _refuse(place, f"is nested more than {MAX_DEPTH} levels deep")
        if event.anchor:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(self._scalar(event, place), place)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq", place)
            node = self._sequence(place, depth)
        else:
            self._check_tag(event, "map", place)
            node = self._mapping(place, depth)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any, place: Place) -> Any:
        if event.tag not in (None, "!"):
            self._check_tag(event, "str", place)
            return event.value
        is_plain = event.implicit[0] and event.tag is None and not self.only_text
        return scalar(event.value) if is_plain else event.value

    def _sequence(self, place: Place, depth: int) -> _Node:
        node = _Node([], place)
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            item = self._node(event, depth + 1)
            node.content.append(item)
            self._grow(node, item)
        return node

    def _mapping(self, place: Place, depth: int) -> _Node:
        node, merged = _Node({}, place), []
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key_place = self._place(event)
            if not isinstance(event, yaml.ScalarEvent):
                _refuse(key_place, "a key must be text")
            key, is_merge = event.value, event.value == "<<" and event.implicit[0]
            self._check_tag(event, "str", key_place)
            if key in node.content:
                first = node.content[key][0]
                _refuse(key_place, f"{key}: duplicate key, first given at {first.line}:{first.column}")
            value = self._node(next(self.events), depth + 1)
            self._grow(node, value)
            if is_merge:
                merged += self._merged(value, key_place)
            else:
                node.content[key] = (key_place, value)
        for source in merged:
            node.content = {**source.content, **node.content}
        return node

    def _merged(self, value: _Node, place: Place) -> list[_Node]:
        """The mappings that `<<:` names, the first of which wins."""
        nodes = value.content if isinstance(value.content, list) else [value]
        if not all(isinstance(node.content, dict) for node in nodes):
            _refuse(place, "<<: merges mappings, and this is not one")
        return nodes

    def _alias(self, anchor: Any, place: Place) -> _Node:
        if anchor not in self.anchors:
            _refuse(place, f"*{anchor}: there is no &{anchor} before it")
        node = self.anchors[anchor]
        if node is None:
            _refuse(place, f"*{anchor} stands inside &{anchor}, so it would never end")
        return _Node(node.content, place, node.size)

    def _grow(self, node: _Node, item: _Node) -> None:
        node.size += item.size
        if node.size > MAX_VALUES:
            _refuse(item.place, f"holds more than {MAX_VALUES} values once its aliases are written out")

    def _check_tag(self, event: Any, allowed: str, place: Place) -> None:
        if event.tag not in (None, "!", f"tag:yaml.org,2002:{allowed}"):
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            _refuse(place, f"the tag {tag} is not allowed; an experiment holds only plain data")

    def _unfold(self, node: _Node, path: Path, places: dict[Path, Place]) -> Any:
        if isinstance(node.content, list):
            for index, item in enumerate(node.content):
                places[(*path, index)] = item.place
            return [self._unfold(item, (*path, index), places) for index, item in enumerate(node.content)]
        if isinstance(node.content, dict):
            for key, (place, _) in node.content.items():
                places[(*path, key)] = place
            return {key: self._unfold(item, (*path, key), places) for key, (_, item) in node.content.items()}
        return node.content

    def _place(self, event: Any) -> Place:
        return self._place_of(event.start_mark)

    def _place_of(self, mark: Any) -> Place:
        return Place(self.source, mark.line + 1, mark.column + 1) if self.located else Place(self.source)


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    mark, problem = error.problem_mark, error.problem or "is not YAML"
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if mark and "\t" in line[: mark.column + 1]:
        return "a tab; YAML is indented with spaces"
    if "could not find expected ':'" in problem:
        problem = "expected `key: value`, and there is no colon"
    elif "mapping values are not allowed" in problem:
        problem = "a second colon on this line; quote the text, or check the indentation"
    return f"{problem} ({error.context})" if error.context else problem


def _kind(content: Any) -> str:
    return "a list" if isinstance(content, list) else "a single value"


def _at(source: str, before: str) -> Place:
    """The place that follows the text `before`."""
    return Place(source, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def _refuse(place: Place | str, message: str) -> NoReturn:
    place = Place(place) if isinstance(place, str) else place
    raise InvalidExperiment(str(Fault(place, "", message)))
