"""foundry report: the project's ledger as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foundry.cli import outputs, render
from foundry.cli.options import Json
from foundry.core.garbage import no_garbage

PAGE = Path("report.html")


@no_garbage()
def report(
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the page goes.", show_default=str(PAGE), callback=outputs.page),
    ] = None,
    open: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    json: Json = False,
) -> None:
    """Write one HTML page about everything that was tried. Lineage, leaderboard, curves, failures, keep rates, noise.

    The page needs no network and no other file, and replaces an earlier one; any other file of that name is refused.
    With --json its data is printed, and a page written only where --out or --open asks for one.

    Example: foundry report --open
    """
    from foundry.core.project import find_project
    from foundry.lab import Report

    path = None
    if out or open or not render.wants_json():
        outputs.page(path := (out or PAGE).absolute())
    found = Report.of(find_project(Path.cwd()))
    if path:
        outputs.write(path, found.html().encode())
    if open and path:
        _show(path)
    data: dict[str, Any] = {"page": None if path is None else str(path), **found.contents}
    render.result(data, lambda: render.line(render.place(path or PAGE)), "foundry noise" if found.is_empty else "")


def _show(path: Path) -> None:
    import webbrowser

    if not webbrowser.open(path.as_uri()):
        render.say(f"found no browser: open {path} in one")
