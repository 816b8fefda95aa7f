"""Where a model is found: a folder, a pulled copy, the hub. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foundry.core.contracts import UsageError
from foundry.core.system import user_path
from foundry.zoo.catalog import pulled
from foundry.zoo.hub import pull


def find(name: str | Path, note: Callable[[str], None] | None = None, *, download: bool = True) -> Path:
    """The folder of a model: `name` itself if it is one, else its copy, which is pulled if need be.

    Raises:
        UsageError: there is no such name, or its copy is not here and `download` is false.
        EnvironmentFailure, InvalidData: as `foundry.zoo.hub.pull`.
    """
    folder = user_path(name)
    if isinstance(name, Path) or folder.is_dir() or str(name).startswith((".", "/", "~")):
        return folder
    copy = pulled(str(name))
    if (copy / "config.json").exists():
        return copy
    if not download:
        raise UsageError(f"{name} is not here yet", f"fetch it: foundry zoo pull {name}")
    return pull(str(name), note)
