"""How prepared data is written: whole or not at all, whenever the process dies."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from foundry.core import system


def hash_of(plain: Any) -> str:
    """sha256 of plain data, as JSON in its canonical form."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def writing(path: Path) -> AbstractContextManager[None]:
    """Turns what a disk can answer while `path` is written into an EnvironmentFailure that names the way out."""
    return system.writing(path, "set FOUNDRY_CACHE (or data.cache) to another folder")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, with whom else may do so at the same time: it is the old file or a whole new one."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        system.replace_durably(path, content, writer=str(os.getpid()))
