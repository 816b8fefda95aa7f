"""Documents that are files: read once to be hashed, once more to be tokenized, and refused if they changed between.

A file is never held whole: text of any size takes the memory of a block of it. What ends in .gz is unpacked on the way.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import itertools
import shlex
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from foundry.core.contracts import InvalidData
from foundry.core.system import open_regular
from foundry.data.corpora import PART, Document

PACKED = ".gz"


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
            if size == 0 and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise InvalidData(f"{path}: is UTF-16, not UTF-8", _converted(path, "UTF-16"))
            if (at := block.find(0)) >= 0:
                raise InvalidData(
                    f"{path}: not text: byte {size + at} is NUL",
                    f"leave it out with dataset.glob; if it is UTF-16, {_converted(path, 'UTF-16')}",
                )
            size += len(block)
            if text := decoder.decode(block):
                yield text.removeprefix(mark)
                mark = ""
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        at = size - len(error.object) + error.start
        raise InvalidData(
            f"{path}: not UTF-8 at byte {at} (0x{error.object[error.start]:02x})",
            _converted(path, "CHARSET"),
        ) from error
    if sha256.hexdigest() != digest:
        raise InvalidData(f"{path}: changed while it was being read", "run again when it no longer changes")


def _converted(path: Path, charset: str) -> str:
    """How to make UTF-8 of a file."""
    return f"convert it: iconv -f {charset} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(f'{path}.utf8')}"


def _blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked."""
    try:
        with open_regular(path) as file:
            unpacked = gzip.GzipFile(fileobj=file) if path.suffix.lower() == PACKED else file
            while block := unpacked.read(PART):
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidData(f"{path}: is damaged, or was not packed by gzip: {error}", "unpack it by hand") from error
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read: {error.strerror}") from error
