"""Everything that an experiment can contain, and which plugin contributed it.

    registry(project)  ->  Registry: slots, variants, shorthands, mutations, sections, problems

Built-in packages, installed plugins and the project's own `variants/*.py` all arrive by the same way, `discovery`, and
are checked and kept in the same `Registry`, `table`. This package imports neither torch nor numpy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from foundry.core.blame import LOCAL
from foundry.core.contracts import Problem
from foundry.core.project import find_project, is_project
from foundry.core.registry.discovery import Plugin, Selection, at_rest, discover
from foundry.core.registry.table import Registry
from foundry.core.system import not_trusted

__all__ = ["Plugin", "Registry", "Selection", "discover", "registry", "registry_at_rest"]


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
    return Registry(plugins, [*problems, *_passed_over(project)])


def registry_at_rest() -> Registry:
    """As `registry()` of the working directory, for whoever only wants names: none of the project's code is run, and
    what its files say of themselves counts. Nothing can be built from it."""
    return Registry(*at_rest(find_project(Path.cwd()), Selection.parse(os.environ.get("FOUNDRY_PLUGINS", ""))))


def _passed_over(project: Path) -> Iterator[Problem]:
    """What says why a folder above, which looks like the project, is not taken for it."""
    if not is_project(project):
        above = next((folder for folder in project.parents if is_project(folder)), None)
        if above is not None and (reason := not_trusted(above)):
            yield Problem(LOCAL, above.name, f"{above} is not taken for this project: {reason}")
