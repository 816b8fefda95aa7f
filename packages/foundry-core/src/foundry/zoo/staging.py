"""Folders that appear whole or not at all: an interrupt or a full disk leaves nothing that looks like a model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundry.core.contracts import InvalidData
from foundry.core.system import move_folder, writing


def refuse_taken(folder: Path) -> None:
    """Raises InvalidData where a folder is to be written and there is something already."""
    if folder.exists() and (not folder.is_dir() or os.listdir(folder)):
        raise InvalidData(f"{folder} already exists, and not empty", "choose another folder, or remove it")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write to; it takes that name when all went well, and is removed when not.

    Raises:
        InvalidData: there is something of that name.
        EnvironmentFailure: it cannot be written.
    """
    refuse_taken(folder)
    folder = folder.absolute()
    partial = folder.with_name(f".{folder.name}.partial")
    with writing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            if folder.exists():
                folder.rmdir()
            move_folder(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
