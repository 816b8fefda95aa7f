"""foundry rollback: an earlier baseline again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foundry.cli import render
from foundry.cli.options import Json
from foundry.core.contracts import UsageError


def rollback(
    generation: Annotated[
        int | None,
        typer.Argument(
            metavar="GENERATION", help="Its number; `foundry lineage` shows all.", show_default="the one before"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make an earlier generation the baseline again. It becomes a new generation: a second rollback undoes it."""
    from foundry.core.project import BASELINE, find_project
    from foundry.lab import Ledger
    from foundry.lab import rollback as go_back

    project = find_project(Path.cwd())
    file = project / BASELINE
    if not Ledger.is_in(project):
        raise UsageError("there is no generation yet", "`foundry sweep` makes the first one")
    with Ledger.open(project, note=render.say) as ledger:
        made = go_back(ledger, project, generation)
    data = {"generation": made.number, "restores": made.restores, "left": made.previous, "identity": made.identity}

    def draw() -> None:
        render.line(f"generation {made.number}: {made.summary}")
        render.say(f"{render.place(file)} is what it was in generation {made.restores}")

    render.result({**data, "path": render.place(file)}, draw, "foundry lineage")
