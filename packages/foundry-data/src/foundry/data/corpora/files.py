"""Documents that are files: read once to be hashed, once more to be tokenized, and refused if they changed between.

A file is never held whole: text of any size takes the memory of a block of it.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from foundry.core.contracts import InvalidData
from foundry.core.system import open_regular
from foundry.data.corpora import PART, Document


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
        return [_sha256(path) for _, path in self.files]

    def documents(self) -> Iterator[Document]:
        for (name, path), digest in zip(self.files, self.digests, strict=True):
            parts = _parts(path, digest)
            first = next(parts, "")
            second = next(parts, None)
            yield Document(name, first if second is None else itertools.chain((first, second), parts))


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    for block in _blocks(path):
        sha256.update(block)
    return sha256.hexdigest()


def _parts(path: Path, digest: str) -> Iterator[str]:
    """The text of a file. Raises InvalidData where it is none, or, at its end, if its sha256 is not `digest`."""
    # Not utf-8-sig, which takes the first one or two bytes of a byte order mark for an empty file.
    decoder, sha256, size, mark = codecs.getincrementaldecoder("utf-8")(), hashlib.sha256(), 0, "\ufeff"
    try:
        for block in _blocks(path):
            sha256.update(block)
            if (at := block.find(0)) >= 0:
                raise InvalidData(f"{path}: not text: byte {size + at} is NUL", "leave it out with dataset.glob")
            size += len(block)
            if text := decoder.decode(block):
                yield text.removeprefix(mark)
                mark = ""
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        at = size - len(error.object) + error.start
        raise InvalidData(
            f"{path}: not UTF-8 at byte {at} (0x{error.object[error.start]:02x})",
            "convert it, for instance with iconv -t UTF-8",
        ) from error
    if sha256.hexdigest() != digest:
        raise InvalidData(f"{path}: changed while it was being read", "run again when it is at rest")


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with open_regular(path) as file:
            while block := file.read(PART):
                yield block
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read: {error.strerror}") from error
