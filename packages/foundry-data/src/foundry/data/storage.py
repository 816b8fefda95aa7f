"""Where prepared data lies, and how it is written: whole or not at all, whenever the process dies."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from foundry.core.contracts import EnvironmentFailure


def hash_of(plain: Any) -> str:
    """sha256 of plain data, as JSON in its canonical form."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cache_folder(configured: str | None = None) -> Path:
    """`data.cache`, else $FOUNDRY_CACHE, else the user's cache folder (XDG base directories)."""
    if configured or os.environ.get("FOUNDRY_CACHE"):
        return Path(configured or os.environ["FOUNDRY_CACHE"]).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "foundry"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what a disk can answer while `path` is written into an EnvironmentFailure that names the way out."""
    try:
        yield
    except OSError as error:
        _refuse(path, error)


def _refuse(path: Path, error: OSError) -> NoReturn:
    where = Path(error.filename) if isinstance(error.filename, str) else path
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "free some space, or set FOUNDRY_CACHE (or data.cache) to a folder on another disk"
    else:
        hint = "set FOUNDRY_CACHE (or data.cache) to a folder that you may write to"
    raise EnvironmentFailure(f"cannot write {where}: {error.strerror}", hint) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: after a crash it is the old file or the new one, never a part."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(staged, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
