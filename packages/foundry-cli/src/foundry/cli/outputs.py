"""Files that a command writes at its end. Whether it will be able to is asked while its command line is read: a folder
that is not there must not show after hours of training.

    csv: Annotated[Path | None, typer.Option(metavar="FILE", callback=outputs.file)] = None
    ...
    outputs.write(csv, content)
"""

from __future__ import annotations

from pathlib import Path

from foundry.cli import render
from foundry.core.contracts import EnvironmentFailure, UsageError
from foundry.core.system import replace_durably, writing

PICTURES = (".png", ".svg", ".pdf")


def file(path: Path | None) -> Path | None:
    """An option's value, where a file of that name can be written.

    Raises:
        UsageError: it is a folder.
        EnvironmentFailure: there is no folder for it, or none that can be written.
    """
    from tempfile import TemporaryFile

    if path is None:
        return None
    if path.is_dir():
        raise UsageError(f"{render.place(path)} is a folder", f"name a file: {render.argument(path / 'NAME')}")
    if not path.parent.is_dir():
        folder = render.argument(path.parent)
        raise EnvironmentFailure(
            f"cannot write {render.place(path)}: there is no folder {folder}", f"make it: mkdir -p {folder}"
        )
    with writing(path), TemporaryFile(dir=path.parent):
        return path


def picture(path: Path | None) -> Path | None:
    """As `file`, of a kind that can be drawn."""
    if path is not None and path.suffix not in PICTURES:
        raise UsageError(f"cannot draw {path}: use one of {', '.join(PICTURES)}")
    return file(path)


def write(path: Path, content: bytes) -> None:
    """The file with this content, or as it was.

    Raises:
        EnvironmentFailure: it cannot be written any more.
    """
    with writing(path):
        replace_durably(path, content)
