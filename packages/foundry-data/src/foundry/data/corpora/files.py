"""Documents that are files: read once to be hashed, once more to be tokenized, and refused if they changed between."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from foundry.core.contracts import InvalidData
from foundry.data.corpora import Document


class FileDocuments:
    """A dataset of UTF-8 files in a given order: (name, path) pairs.

    A byte-order mark is dropped; the text is otherwise what the file holds, line ends included.
    """

    def __init__(self, files: Sequence[tuple[str, Path]]) -> None:
        self.files = files

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.digests).encode()).hexdigest()

    @cached_property
    def digests(self) -> list[str]:
        """sha256 of each file."""
        # Every byte, every time: sizes and times of modification would miss an edit (1.6 GB/s with SHA instructions).
        return [hashlib.sha256(_read(path)).hexdigest() for _, path in self.files]

    def documents(self) -> Iterator[Document]:
        for (name, path), digest in zip(self.files, self.digests, strict=True):
            content = _read(path)
            if hashlib.sha256(content).hexdigest() != digest:
                raise InvalidData(f"{path}: changed while it was being read", "run again when it is at rest")
            yield Document(name, _decode(content, path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read: {error.strerror}") from error


def _decode(content: bytes, path: Path) -> str:
    if b"\0" in content:
        raise InvalidData(f"{path}: not text: byte {content.index(0)} is NUL", "leave it out with dataset.glob")
    try:
        return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        at = content.index(error.object) + error.start
        raise InvalidData(
            f"{path}: not UTF-8 at byte {at} (0x{content[at]:02x})", "convert it, for instance with iconv -t UTF-8"
        ) from error
