"""Where the baseline comes from: as a value, as lines, and as the comments with which experiments/baseline.yaml
begins."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from foundry.core.config.write_yaml import comment
from foundry.core.config.yaml import MAX_BYTES
from foundry.core.project import BASELINE
from foundry.core.system import read_regular
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Decision, Generation

HEAD = """\
# The baseline: what `foundry train` trains, and what a sweep compares with and may replace. Edit it as you like:
# an edited file is a new generation, and `foundry rollback` goes back.
# lineage:
"""
_LINE = re.compile(r"#   (\d+)  (\d{4}-\d\d-\d\d)  (manual|promoted|rollback)  (.*)")


@dataclass(frozen=True)
class Lineage:
    """Every baseline that a project has had."""

    generations: tuple[Generation, ...]  # oldest first
    ancestry: tuple[str, ...]  # what the file told of itself before the first of them, one line each
    file: Path  # the baseline's
    edited: bool  # the file is no more what the newest generation says: the next sweep will import it
    decisions: Mapping[str, Decision] = field(repr=False)  # those that made a generation, by their ids

    @classmethod
    def of(cls, project: Path, ledger: Ledger | None) -> Lineage:
        """The lineage of a project, which has no generations as long as it has no ledger."""
        generations = ledger.generations() if ledger else []
        made = {each.decision for each in generations}
        decisions = {each.id: each for each in ledger.decisions() if each.id in made} if ledger else {}
        file, newest = project / BASELINE, generations[-1] if generations else None
        content = read_regular(file, MAX_BYTES) if file.exists() else None
        told = ancestry("" if content is None else content.decode(errors="replace"))
        return cls(
            tuple(generations),
            generations[0].ancestry if generations else tuple(told),
            file,
            newest is not None and newest.rendered and content is not None and hash_of(content) != newest.file_hash,
            decisions,
        )

    def decision(self, generation: Generation) -> Decision | None:
        """What made it a generation. None: there was no decision, a file was edited or rolled back."""
        return self.decisions.get(generation.decision or "")

    def state(self, generation: Generation) -> Literal["baseline", "standing", "undone"]:
        """Whether it is the baseline, the baseline descends from it, or a rollback has left it behind."""
        if generation is self.generations[-1]:
            return "baseline"
        return "standing" if generation.number in self._standing else "undone"

    @cached_property
    def _standing(self) -> set[int]:
        parents = {each.number: each.parent for each in self.generations}
        number = self.generations[-1].number if self.generations else None
        found: set[int] = set()
        while number is not None:
            found.add(number)
            number = parents[number]
        return found


def as_lines(ledger: Ledger, generations: Sequence[Generation] | None = None) -> list[str]:
    """One line per generation, oldest first: number, date, kind, what, and with which effect. The ancestry that a
    cloned file told stands before it.

    Args:
        generations: those to tell of, by default all.
    """
    lines: list[str] = []
    for each in ledger.generations() if generations is None else generations:
        lines = [*(each.ancestry or lines), _line(each, ledger.decision(each.decision or ""))]
    return lines


def rendered(lines: Sequence[str], text: str) -> str:
    """A baseline file: its lineage, and then the experiment."""
    return HEAD + "".join(f"#   {line}\n" for line in lines) + "\n" + text


def split(text: str) -> tuple[str, str]:
    """What `rendered` put together: the comments that tell the lineage, and the rest."""
    lines = text.splitlines(keepends=True)
    last = 0
    for number, line in enumerate(lines, start=1):
        if not line.startswith("#"):
            break
        if _LINE.fullmatch(line.rstrip()):
            last = number
    rest = "".join(lines[last:])
    return "".join(lines[:last]), rest.removeprefix("\n") if last else rest


def ancestry(text: str) -> list[str]:
    """The lineage that a baseline file tells of itself, as `as_lines` gives it."""
    head, _ = split(text)
    return [line.rstrip()[4:] for line in head.splitlines() if _LINE.fullmatch(line.rstrip())]


def hash_of(content: bytes) -> str:
    """sha256: `Generation.file_hash` of a file's content."""
    return hashlib.sha256(content).hexdigest()


def _line(generation: Generation, decision: Decision | None) -> str:
    date = time.strftime("%Y-%m-%d", time.gmtime(generation.created))
    line = f"{generation.number}  {date}  {generation.kind}  {comment(generation.summary)}"
    if decision is None or decision.effect is None:
        return line
    within = f" {decision.interval}" if decision.interval else ""
    return f"{line}: {decision.metric} gain {decision.effect:+.4f}{within}, n {decision.n}"
