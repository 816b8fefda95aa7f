"""Python's search for garbage, and who does without."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage() -> Iterator[None]:
    """While many values are made, of which none is garbage: to look for some takes a third of the time. Only for a
    while: what refers to itself is kept until its end. Is a decorator, too."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
