"""Text of one's own: a file, or a folder of files."""

from __future__ import annotations

from pathlib import Path

from foundry.core.contracts import InvalidData
from foundry.core.system import user_path
from foundry.data.corpora import TextParams
from foundry.data.corpora.files import FileDocuments

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
            folder, files = path, _matching(path, params.glob)
        else:
            raise InvalidData(
                f"dataset.path: there is no file or folder {path}", f"relative paths start at {Path.cwd()}"
            )
        super().__init__(sorted((file.relative_to(folder).as_posix(), file) for file in files))


def _matching(folder: Path, glob: str | None) -> list[Path]:
    try:
        found = [file for file in folder.glob(glob or "**/*") if file.is_file()]
    except (ValueError, NotImplementedError) as error:
        raise InvalidData(f"dataset.glob: {glob!r} is not a pattern: {error}", 'such as "**/*.md"') from error
    files = [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    if glob is None:
        files = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not files:
        wanted = f"match {glob!r}" if glob else f"end in {', '.join(sorted(SUFFIXES))}"
        raise InvalidData(f"dataset.path: no files in {folder} {wanted}", "set dataset.glob")
    return files
