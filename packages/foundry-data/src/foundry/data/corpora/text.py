"""Text of one's own: a file, a folder of files, or those that a pattern names."""

from __future__ import annotations

from glob import has_magic
from pathlib import Path

from foundry.core.contracts import InvalidData
from foundry.core.system import user_path
from foundry.data.corpora import TextParams
from foundry.data.corpora.files import PACKED, FileDocuments

# fmt: off
SUFFIXES = frozenset([
    ".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".cu", ".rs",
    ".go", ".js", ".ts", ".java", ".sh",
])
# fmt: on
"""What counts as text in a folder where no glob says otherwise."""


class TextFiles(FileDocuments):
    """One document per file, in the order of their paths; hidden files and folders are left out."""

    def __init__(self, params: TextParams, cache: Path) -> None:
        path = user_path(params.path)
        if path.is_file():
            folder, files = path.parent, [path]
        elif path.is_dir():
            folder, files = path, _of_folder(path, params.glob)
        elif has_magic(params.path):
            folder, pattern = _split(path)
            files = _matching(folder, pattern, "path")
            if not files:
                raise InvalidData(f"dataset.path: no files in {folder} match {pattern!r}", "is the pattern right?")
        else:
            raise InvalidData(
                f"dataset.path: there is no file or folder {path}", f"relative paths start at {Path.cwd()}"
            )
        super().__init__(sorted((file.relative_to(folder).as_posix(), file) for file in files))


def _split(path: Path) -> tuple[Path, str]:
    """The folder in front of the first pattern among the parts of a path, and the rest."""
    depth = next(depth for depth, part in enumerate(path.parts) if has_magic(part))
    return Path(*path.parts[:depth]), "/".join(path.parts[depth:])


def _of_folder(folder: Path, glob: str | None) -> list[Path]:
    files = _matching(folder, glob or "**/*", "glob")
    if glob is None:
        files = [file for file in files if _suffix(file) in SUFFIXES]
    if not files:
        wanted = f"match {glob!r}" if glob else f"end in {', '.join(sorted(SUFFIXES))}, or that and .gz"
        raise InvalidData(f"dataset.path: no files in {folder} {wanted}", "set dataset.glob")
    return files


def _matching(folder: Path, pattern: str, setting: str) -> list[Path]:
    try:
        found = [file for file in folder.glob(pattern) if file.is_file()]
    except (ValueError, NotImplementedError) as error:
        raise InvalidData(f"dataset.{setting}: {pattern!r} is not a pattern: {error}", 'such as "**/*.md"') from error
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _suffix(file: Path) -> str:
    """Of the text: `.txt` of notes.txt.gz."""
    return (file.with_suffix("") if file.suffix.lower() == PACKED else file).suffix.lower()
