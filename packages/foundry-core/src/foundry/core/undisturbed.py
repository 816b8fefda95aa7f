"""What code of a plugin's may change for its whole process, and is set back when it has run.

    with undisturbed(note):     # "torch's default dtype to torch.float64"
        ...                     # imports a plugin, builds its model, trains it

A worker trains one arm after the other. An arm whose variant sets torch's default dtype would decide what the next ones
compute in. (What a training sets itself, threads and the precision of products, it sets anew each time.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class _Setting(NamedTuple):
    """One of a process's settings."""

    words: str
    get: Callable[[], Any]
    set: Callable[[Any], Any]
    pristine: Any = None  # as it is when torch was just imported


@contextmanager
def undisturbed(note: Callable[[str], None] = lambda change: None) -> Iterator[None]:
    """Set back at the end what was changed inside.

    Args:
        note: told of each change, in words.
    """
    before = {setting.words: setting.get() for setting in _settings()}
    try:
        yield
    finally:
        for setting in _settings():
            then, now = before.get(setting.words, setting.pristine), setting.get()
            if now != then:
                setting.set(then)
                note(f"{setting.words} to {now}")


def _settings() -> Iterator[_Setting]:
    yield _Setting("the working directory", _working_directory, os.chdir)
    yield _Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "set_default_device"):  # it is not imported, or not yet
        return
    yield _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype, torch.float32)
    yield _Setting("torch's default device", lambda: _default_device(torch), torch.set_default_device)
    yield _Setting("torch's gradients", torch.is_grad_enabled, torch.set_grad_enabled, True)
    yield _Setting(
        "torch's deterministic algorithms",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
        False,
    )
    yield _Setting("torch's anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, False)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return "/"


def _default_device(torch: Any) -> Any:
    """None where none was chosen, which is quicker than the same device chosen."""
    device = torch.get_default_device()
    return None if device == torch.device("cpu") else device
