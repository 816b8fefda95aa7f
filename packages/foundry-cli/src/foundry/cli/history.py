"""The ledger of the project around the working directory, for the commands that look into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from foundry.cli import render

if TYPE_CHECKING:
    from foundry.lab import Ledger


@contextmanager
def ledger() -> Iterator[Ledger | None]:
    """The project's ledger; None if nothing was tried there yet, so that looking makes no ledger."""
    from foundry.core.project import find_project
    from foundry.lab import Ledger

    project = find_project(Path.cwd())
    if not Ledger.is_in(project):
        render.say(f"nothing was tried in {project} yet")
        yield None
        return
    with Ledger.look(project, note=render.say) as opened:
        yield opened


def day(seconds: float) -> str:
    """A time of the ledger, as people's clocks show it."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def signed(value: float | None) -> str | None:
    """An effect, or an end of its interval."""
    return None if value is None else f"{value:+.4f}"
