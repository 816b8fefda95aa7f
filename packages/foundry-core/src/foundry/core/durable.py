"""Writing files so that a crash leaves the old content or the new, never a part, and a disk that refuses is named."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundry.core.contracts import EnvironmentFailure

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system answers while `path` is written into an EnvironmentFailure that names the way out."""
    try:
        yield
    except OSError as error:
        hint = "free some space, then run again" if error.errno in FULL else "make it writable, or choose another place"
        raise EnvironmentFailure(f"cannot write {path}: {error.strerror}", hint) from error


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, data: bytes) -> None:
    """Replace a file's content in one step: a reader sees the old or the new."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        write_durably(temporary, data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the disk has a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
