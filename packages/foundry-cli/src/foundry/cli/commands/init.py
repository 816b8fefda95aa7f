"""`foundry init`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from foundry.cli import render
from foundry.cli.options import Json


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The project's folder.")] = Path("."),
    text: Annotated[
        str, typer.Option(metavar="PATH", help="What to train on: a file, a folder or a pattern of your own text.")
    ] = "",
    json: Json = False,
) -> None:
    """Make a folder a Foundry project.

    Writes experiments/baseline.yaml; existing files stay. Without --text it trains on Python's own sources.

    \b
    foundry init --text notes.txt && foundry train
    """
    from foundry.cli.scaffold import baseline

    path = folder / "experiments" / "baseline.yaml"
    content = baseline(_from_project(text, folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
        made = True
    except FileExistsError:
        made = False

    def draw() -> None:
        render.line(str(path))
        if not made:
            render.say(f"{path} already exists and stays as it is")

    inside = "" if folder == Path(".") else f"cd {folder} && "
    render.result({"path": str(path), "written": made}, draw, f"{inside}foundry train")


def _from_project(text: str, folder: Path) -> str:
    """A path from here, as it is from the project's folder, where commands run.

    Raises:
        InvalidData: there is nothing of that name.
    """
    from glob import glob

    from foundry.core.contracts import InvalidData
    from foundry.core.system import user_path

    if not text:
        return ""
    path = user_path(text)
    if not glob(str(path), recursive=True):
        raise InvalidData(f"--text {text}: there is no such file or folder", f"relative paths start at {Path.cwd()}")
    if path.is_absolute() or folder.resolve() == Path.cwd():
        return text if {*"./*~"} & {*text} else f"./{text}"
    return os.path.relpath(path, folder)
