"""The kernels in C, compiled and loaded: once for a machine, in its user's cache, and not for every test that gives its
processes a cache of their own. To compile them takes a core seven seconds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from foundry.core.kernels import native_kernels
from foundry.kernels import build


def put_into(cache: Path) -> None:
    """Have them in a FOUNDRY_CACHE that is new."""
    if not build.missing():
        (cache / "kernels").mkdir(mode=0o700, parents=True)
        shutil.copy(build.load()._name, cache / "kernels")


_of_a_test = os.environ.pop("FOUNDRY_CACHE", None)  # of the one that imports this first
native_kernels()
if _of_a_test is not None:
    os.environ["FOUNDRY_CACHE"] = _of_a_test
build.missing()
