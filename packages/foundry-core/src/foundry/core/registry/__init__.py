"""Everything that can stand in an experiment, and who contributed it.

    registry(project)  ->  Registry: slots, variants, shorthands, mutations, sections, problems

Built-in packages, installed plugins and the project's own `variants/*.py` all arrive by the same way, `discovery`, and
are checked and kept in the same `Registry`, `table`. This package imports neither torch nor numpy.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from foundry.core.registry.discovery import Plugin, Selection, discover
from foundry.core.registry.table import Registry

__all__ = ["BASELINE", "Plugin", "Registry", "Selection", "discover", "find_project", "registry"]

PROJECT_MARKS = (".foundry", "experiments")
BASELINE = Path("experiments", "baseline.yaml")
"""Of a project: the current champion."""


def registry(project: Path | None = None) -> Registry:
    """The registry of a project folder, discovered once per process.

    Args:
        project: the folder whose `variants/*.py` take part; by default the project around the working directory.
    """
    folder = find_project(Path.cwd()) if project is None else project.resolve()
    return _registry(folder, os.environ.get("FOUNDRY_PLUGINS", ""))


@lru_cache(maxsize=8)
def _registry(project: Path, selection: str) -> Registry:
    plugins, problems = discover(project, Selection.parse(selection))
    return Registry(plugins, problems)


def find_project(start: Path) -> Path:
    """The nearest folder at or above `start` that holds .foundry/ or experiments/; else `start`'s folder."""
    start = start.resolve()
    folder = start.parent if start.is_file() else start
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).is_dir() for mark in PROJECT_MARKS):
            return candidate
    return folder
