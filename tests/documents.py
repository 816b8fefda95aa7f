"""What docs/agents.md says that the documents of --json hold, and whether one does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "agents.md"
IN_EVERY = {"schema_version", "next"}


@cache
def promised() -> dict[str, tuple[str, ...]]:
    """The keys of each document, as words: `arms[`, `arm`, `]`, `sigma?`."""
    [block] = re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = re.findall(r"^(\S.*?)  +((?:.*(?:\n +)?)+)$", block, re.MULTILINE)
    return {name: tuple(re.findall(r"[\w.]+\??\[?|\]", keys)) for name, keys in lines}


def faults(name: str, document: Mapping[str, Any]) -> list[str]:
    """What in a document is not as promised: a key that is missing, or one that nobody has written down."""
    return list(_faults(iter(promised()[name]), [document], name, IN_EVERY))


def faults_of(arguments: Sequence[str], document: Mapping[str, Any]) -> list[str]:
    """As `faults`, of what a command line printed: `zoo convert gpt2 --run run` by what stands at `zoo convert`."""
    titles = [title for title in promised() if [*arguments[: len(title.split())]] == title.split()]
    return faults(max(titles, key=len), document)


def _faults(words: Iterator[str], found: Iterable[Mapping[str, Any]], where: str, also: set[str]) -> Iterator[str]:
    """Of objects that should have the same keys: those up to the bracket that closes."""
    objects, known = [*found], set(also)
    for word in words:
        if word == "]":
            break
        name = word.rstrip("?[")
        known.add(name)
        if "?" not in word and name != "...":
            yield from (f"{where} has no {name}" for each in objects if name not in each)
        if word.endswith("["):
            inside = [inner for each in objects for inner in _objects(each.get(name))]
            yield from _faults(words, inside, f"{where} {name}", set())
    if "..." not in known:
        yield from (f"{where} has {key}, which is not written down" for each in objects for key in each.keys() - known)


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]


def faults_of_stream(arguments: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """As `faults`, of all that a command which trains has printed."""
    command = f"{arguments[0]} --null" if "--null" in arguments else arguments[0]
    ends = {"plan": f"{command} plan", "result": f"{command} result" if command == "sweep" else command}
    return [fault for line in lines for fault in faults(ends.get(line["event"], line["event"]), line)]


def stream(capsys: Any, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run a command that trains in this process: its exit code, the objects that it prints, with all keys as promised,
    and what it says on stderr."""
    from foundry.cli.__main__ import main

    code = main([*arguments, "--json"])
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert faults_of_stream(arguments, lines) == []
    return code, lines, said.err


def foundry(capsys: Any, *arguments: str) -> dict[str, Any]:
    """Run a command in this process, which must succeed: the document that it prints, with all keys as promised."""
    from foundry.cli.__main__ import main

    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert faults_of(arguments, document) == []
    return document
