"""The project that a command works in: the folder that holds experiments/ and, once something was tried, .foundry/."""

from __future__ import annotations

from pathlib import Path

from foundry.core.system import not_trusted

MARKS = (".foundry", "experiments")
BASELINE = Path("experiments", "baseline.yaml")
"""Of a project: the current champion."""


def find_project(start: Path) -> Path:
    """The nearest folder at or above `start` that holds .foundry/ or experiments/; else `start`'s folder. The search
    ends below a folder that is another user's, or that others may write to: anybody could have put them there."""
    start = start.resolve()
    folder = start.parent if start.is_file() else start
    for candidate in (folder, *folder.parents):
        if candidate != folder and not_trusted(candidate):
            break
        if is_project(candidate):
            return candidate
    return folder


def is_project(folder: Path) -> bool:
    """Whether a folder looks like one."""
    return any((folder / mark).is_dir() for mark in MARKS)
