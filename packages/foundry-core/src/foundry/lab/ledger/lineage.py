"""The lineage as lines, and as the comments with which experiments/baseline.yaml begins."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path

from foundry.core.config.write_yaml import comment
from foundry.core.config.yaml import MAX_BYTES
from foundry.core.system import read_regular
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Decision, Generation, span

HEAD = """\
# The baseline: what `foundry train` trains, and what a sweep compares with and may replace. Edit it as you like:
# an edited file is a new generation, and `foundry rollback` goes back.
# lineage:
"""
_LINE = re.compile(r"#   (\d+)  (\d{4}-\d\d-\d\d)  (manual|promoted|rollback)  (.*)")


def lineage(ledger: Ledger, generations: Sequence[Generation] | None = None) -> list[str]:
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
    """The lineage that a baseline file tells of itself, as `lineage` gives it."""
    head, _ = split(text)
    return [line.rstrip()[4:] for line in head.splitlines() if _LINE.fullmatch(line.rstrip())]


def standing(generations: Sequence[Generation]) -> set[int]:
    """The numbers of those that the newest one descends from, itself included: what no rollback has left behind."""
    parents = {each.number: each.parent for each in generations}
    number = generations[-1].number if generations else None
    found: set[int] = set()
    while number is not None:
        found.add(number)
        number = parents[number]
    return found


def was_edited(file: Path, newest: Generation) -> bool:
    """Whether the baseline file is no more what the newest generation says: the next sweep will import it."""
    return newest.rendered and file.exists() and hash_of(read_regular(file, MAX_BYTES)) != newest.file_hash


def hash_of(content: bytes) -> str:
    """sha256: `Generation.file_hash` of a file's content."""
    return hashlib.sha256(content).hexdigest()


def _line(generation: Generation, decision: Decision | None) -> str:
    date = time.strftime("%Y-%m-%d", time.gmtime(generation.created))
    line = f"{generation.number}  {date}  {generation.kind}  {comment(generation.summary)}"
    if decision is None or decision.effect is None:
        return line
    within = span(decision.low, decision.high, decision.confidence)
    return f"{line}: {decision.metric} gain {decision.effect:+.4f}{within and f' {within}'}, n {decision.n}"
