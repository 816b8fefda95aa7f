"""`foundry init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foundry.cli import render
from foundry.cli.options import Json


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The project's folder.")] = Path("."),
    json: Json = False,
) -> None:
    """Make a folder a Foundry project.

    Writes experiments/baseline.yaml; what is there already stays.
    """
    from foundry.cli.scaffold import baseline

    path = folder / "experiments" / "baseline.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(baseline())
        made = True
    except FileExistsError:
        made = False

    def draw() -> None:
        render.line(str(path))
        if not made:
            render.say(f"{path} was there already and stays as it is")

    inside = "" if folder == Path(".") else f"cd {folder} && "
    render.result({"path": str(path), "written": made}, draw, f"{inside}foundry train")
