"""Files that a command writes at its end. Whether it will be able to is asked while its command line is read: a folder
that is not there must not show after hours of training.

    csv: Annotated[Path | None, typer.Option(metavar="FILE", callback=outputs.table)] = None
    ...
    outputs.write(csv, content)

What already exists is replaced only where Foundry made it: a page, a table, a picture or a model of before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foundry.cli import render
from foundry.core.contracts import EnvironmentFailure, UsageError
from foundry.core.system import open_regular, replace_durably, unread, writing

PICTURES = (".png", ".svg", ".pdf")
MADE_BY = "Foundry (foundry.cli.plots)"
"""What our pictures have among their facts as the program that drew them."""
PAGE_HEAD = b'<meta name="generator" content="Foundry">'
TABLE_HEAD = b"arm,"
"""How the line of a table begins that names its columns."""
MODEL_HEAD = b'"""The model of the experiment `'
"""How a file of `foundry config inline` begins."""
ENDS_BYTES = 1 << 16
"""Of a file's beginning, and of its end, where a mark is looked for."""


def page(path: Path | None) -> Path | None:
    """An option's value, where a page of ours may be written.

    Raises:
        UsageError: it is a folder, or there is a file that is no page of ours.
        EnvironmentFailure: there is no folder for it, or none that can be written.
    """
    return _file(path, "a report of Foundry's", lambda begin, end: PAGE_HEAD in begin)


def table(path: Path | None) -> Path | None:
    """As `page`, for a CSV."""
    return _file(path, "a table of Foundry's", lambda begin, end: begin.startswith(TABLE_HEAD))


def model(path: Path | None) -> Path | None:
    """As `page`, for a model's text."""
    return _file(path, "a model of `foundry config inline`", lambda begin, end: begin.startswith(MODEL_HEAD))


def picture(path: Path | None) -> Path | None:
    """As `page`, for what can be drawn."""
    if path is not None and path.suffix not in PICTURES:
        raise UsageError(f"cannot draw {path}: use one of {', '.join(PICTURES)}")
    mark = MADE_BY.encode()
    escaped = mark.replace(b"(", rb"\(").replace(b")", rb"\)")  # as a PDF has it
    return _file(path, "a picture of Foundry's", lambda begin, end: any(m in begin + end for m in (mark, escaped)))


def new(path: Path | None) -> Path | None:
    """As `page`, for a file that must not be there yet."""
    return _file(path, "", lambda begin, end: False)


def _file(path: Path | None, what: str, is_ours: Callable[[bytes, bytes], bool]) -> Path | None:
    """The path, if it may be written.

    Args:
        what: what may be replaced; empty for nothing.
        is_ours: whether a file that begins so, and ends so, is that.
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
    begin, end = _ends(path) if path.exists() else (b"", b"")
    if (begin and not is_ours(begin, end)) or (path.exists() and not what):  # of an empty one nothing is lost
        why = f", and not {what}" if what else ""
        raise UsageError(f"{render.place(path)} already exists{why}", "choose another name, or remove it")
    with writing(path), TemporaryFile(dir=path.parent):
        return path


def _ends(path: Path) -> tuple[bytes, bytes]:
    """How a file begins, and how it ends."""
    try:
        with open_regular(path) as file:
            begin = file.read(ENDS_BYTES)
            file.seek(max(0, file.seek(0, 2) - ENDS_BYTES))
            return begin, file.read(ENDS_BYTES)
    except OSError as error:
        raise unread(error, path) from error


def write(path: Path, content: bytes) -> None:
    """The file with this content, or as it was.

    Raises:
        EnvironmentFailure: it cannot be written any more.
    """
    with writing(path):
        replace_durably(path, content)
