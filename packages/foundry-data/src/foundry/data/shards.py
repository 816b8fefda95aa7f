"""Token shards on disk, and their manifest.

    KEY/manifest.json              the files below with their sizes and sha256, a hash over that, and their origin
    KEY/tokenizer.json
    KEY/train-00000.bin            tokens, little-endian, uint16 or uint32 by the size of the vocabulary
    KEY/train.documents.bin        int64: where each document starts, and where the last one ends
    KEY/validation-00000.bin, KEY/validation.documents.bin

A document never straddles two shards.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foundry.core.contracts import InvalidData
from foundry.core.system import JSON_BYTES, open_regular, read_regular, sync_file, write_durably
from foundry.data.split import Part
from foundry.data.storage import hash_of

SCHEMA = 1
"""Raised whenever the same text would be stored otherwise: by the split, the base classes, or the files' form."""
SHARD_TOKENS = 2**27  # 256 MB of uint16
MOVED_BYTES = 2**20  # at a time, of a document that has turned out too long for the rest of a shard


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id, special tokens included."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class PartWriter:
    """Writes the documents of one part into `folder`."""

    def __init__(self, folder: Path, part: Part, dtype: np.dtype, shard_tokens: int = SHARD_TOKENS) -> None:
        self.folder, self.part, self.dtype, self.shard_tokens = folder, part, dtype, shard_tokens
        self.offsets = array("q", [0])
        self.shards: list[int] = []  # tokens in each
        self.files: dict[str, dict[str, Any]] = {}
        self._open = self._shard(0)

    def _shard(self, number: int) -> _HashedFile:
        return _HashedFile(self.folder, f"{self.part}-{number:05d}.bin")

    def add(self, document: Iterable[np.ndarray]) -> None:
        """One document: its ids in arrays (N,) that follow each other."""
        before = self._open.mark()
        for tokens in document:
            self._open.write(tokens.astype(self.dtype).tobytes())
        added = (self._open.size - before.size) // self.dtype.itemsize
        if before.size and self._open.size // self.dtype.itemsize > self.shard_tokens:
            full, self._open = self._open, self._shard(len(self.shards) + 1)
            full.move_tail(before, self._open)
            self._close_shard(full)
        self.offsets.append(self.offsets[-1] + added)

    def _close_shard(self, shard: _HashedFile) -> None:
        self.shards.append(shard.size // self.dtype.itemsize)
        self.files[shard.name] = shard.close()

    def close(self) -> dict[str, Any]:
        """The part's entry in the manifest."""
        self._close_shard(self._open)
        documents = _HashedFile(self.folder, f"{self.part}.documents.bin")
        documents.write(np.asarray(self.offsets, dtype="<i8").tobytes())
        self.files[documents.name] = documents.close()
        return {
            "documents": len(self.offsets) - 1,
            "tokens": self.offsets[-1],
            "shards": self.shards,
            "files": self.files,
        }


class _Mark(NamedTuple):
    """How far a file was written."""

    size: int
    sha256: Any


class _HashedFile:
    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.size = name, 0
        self._sha256 = hashlib.sha256()
        self._file = open(folder / name, "w+b")  # noqa: SIM115 - closed by close(), or with the process

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._sha256.update(content)
        self.size += len(content)

    def mark(self) -> _Mark:
        return _Mark(self.size, self._sha256.copy())

    def move_tail(self, since: _Mark, other: _HashedFile) -> None:
        """Take back what was written since a mark, and write it to another file."""
        self._file.seek(since.size)
        while block := self._file.read(MOVED_BYTES):
            other.write(block)
        self._file.seek(since.size)
        self._file.truncate()
        self.size, self._sha256 = since

    def close(self) -> dict[str, Any]:
        sync_file(self._file)
        self._file.close()
        return {"bytes": self.size, "sha256": self._sha256.hexdigest()}


class TokenPart:
    """The documents of one part, memory-mapped.

    documents   (D + 1,) int64: document d is tokens documents[d] to documents[d + 1]
    """

    def __init__(self, folder: Path, part: Part, data: Mapping[str, Any]) -> None:
        dtype = np.dtype(data["dtype"])
        entry = data["parts"][part]
        self.documents = _map(folder / f"{part}.documents.bin", np.dtype("<i8"))
        self._shards = [_map(folder / f"{part}-{i:05d}.bin", dtype) for i in range(len(entry["shards"]))]
        self._shard_starts = np.concatenate([[0], np.cumsum(entry["shards"], dtype=np.int64)])[:-1]

    def windows(self, starts: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
        """(B, width) int64: tokens starts[b] to starts[b] + lengths[b], filled up with 0. None leaves its document."""
        windows = np.zeros((len(starts), width), dtype=np.int64)
        shards = np.searchsorted(self._shard_starts, starts, side="right") - 1
        firsts = starts - self._shard_starts[shards]
        for row, (shard, first, length) in enumerate(
            zip(shards.tolist(), firsts.tolist(), lengths.tolist(), strict=True)
        ):
            windows[row, :length] = self._shards[shard][first : first + length]
        return windows


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.zeros(0, dtype)
    try:
        return np.asarray(np.memmap(path, dtype=dtype, mode="r"))  # a plain array: slicing np.memmap costs 2 us more
    except OSError:  # a file system that maps nothing
        return np.fromfile(path, dtype=dtype)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_durably(folder / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, once every file that it names was found to be what it says.

    Raises:
        InvalidData: names the first file that is missing, damaged or not understood.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(read_regular(path, JSON_BYTES))
        if manifest["schema"] != SCHEMA:
            raise InvalidData(f"{path}: of schema {manifest['schema']}, where this version reads {SCHEMA}")
        if manifest["fingerprint"] != hash_of(manifest["data"]):
            raise InvalidData(f"{path}: damaged: it does not match its own hash")
        for part in manifest["data"]["parts"].values():
            for name, file in part["files"].items():
                _verify(folder / name, file["bytes"], file["sha256"])
    except OSError as error:
        raise InvalidData(f"{error.filename or folder}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidData(f"{path}: damaged: {error!r}") from error
    return manifest


def _verify(path: Path, size: int, sha256: str) -> None:
    actual = path.stat().st_size
    if actual != size:
        raise InvalidData(f"{path}: damaged: {actual} bytes where the manifest says {size}")
    with open_regular(path) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise InvalidData(f"{path}: damaged: its sha256 differs from the manifest's")
