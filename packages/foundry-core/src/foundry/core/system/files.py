"""Files and folders of which a crash leaves the old content or the new, never a part; and files that others wrote.

What is written is flushed to the disk, the folder's list of names included. Some file systems have no such call: what
would have been flushed is then written, and as safe as that file system makes it.

What is read may be anything: under the name of a JSON file lies a FIFO, which nobody writes to, a link to /dev/zero, or
400 GB. So every file that others may have written is opened by `open_regular`, and one that is held whole is read by
`read_regular`, which says how much of it is believed.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, NamedTuple

_CANNOT_FLUSH = frozenset((errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP))
_CANNOT_OPEN_FOLDERS = frozenset((errno.EACCES, errno.EISDIR, errno.EBADF, errno.EPERM))
"""As PostgreSQL's fsync_fname_ext: a folder that may be written may still not be opened to be flushed."""

JSON_BYTES = 2**26
"""Of any JSON document that is read whole. The longest known are lists of shards: 14 MB for a trillion parameters."""
TOKENIZER_BYTES = 2**28
"""Of a tokenizer's file. The longest known have 35 MB."""


class UnfitFile(OSError):
    """What has a file's name, and is none that can be read: no regular file, or one that is too long."""


def open_regular(path: Path) -> BufferedReader:
    """The file, opened for reading at once: a FIFO without a writer would wait for one.

    Raises:
        UnfitFile: it is a FIFO, a socket, a device, or a link to one.
        OSError: it is a folder, or the system refuses.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise UnfitFile(errno.EINVAL, "is not a regular file", str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, at_most: int) -> bytes:
    """The content of a file of no more than `at_most` bytes.

    Raises:
        UnfitFile: it is no regular file, or longer.
        OSError: it is a folder, or the system refuses.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= at_most else b""
        if len(content) > size:  # it grows, or is of a file system that tells no sizes
            content += file.read(max(0, at_most - size))
            size = len(content)
    if size > at_most:
        why = f"holds {size:,} bytes, more than the {at_most:,} that it may; not read"
        raise UnfitFile(errno.EINVAL, why, str(path))
    return content


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(data)
        sync_file(file)


def replace_durably(path: Path, data: bytes, writer: str = "") -> None:
    """Replace a file's content in one step: a reader sees the old or the new.

    Args:
        writer: tells those apart who may write it at the same time.
    """
    temporary = path.with_name(f".{path.name}{writer and f'.{writer}'}.partial")
    try:
        write_durably(temporary, data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_file(file: IO[bytes] | IO[str]) -> None:
    """Wait until the disk has what was written to an open file."""
    if file.writable():
        file.flush()
    _flush(file.fileno(), _CANNOT_FLUSH)


def sync_folder(path: Path) -> None:
    """Wait until the disk has a folder's list of names."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _CANNOT_OPEN_FOLDERS:
            raise
        return
    try:
        _flush(descriptor, _CANNOT_FLUSH | {errno.EBADF})
    finally:
        os.close(descriptor)


def _flush(descriptor: int, harmless: frozenset[int]) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in harmless:
            raise


def move_folder(source: Path, target: Path) -> None:
    """Give a folder another name beside its own. In a container, a folder of the image's own layers cannot be renamed:
    it is copied, and the copy takes the name."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial, copy_function=shutil.copyfile)
        os.rename(partial, target)
        shutil.rmtree(source)
    sync_folder(target.parent)


def copy_or_link(source: Path, target: Path) -> None:
    """The file `target`, with the content of `source`: the same blocks on the disk where there are links."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


class Abilities(NamedTuple):
    """What a file system can do, of that which SQLite asks of it."""

    lock: bool  # by POSIX: parts of a file
    map: bool  # a file as memory that processes share
    flush: bool  # a file to the disk


def abilities(folder: Path) -> Abilities:
    """What the file system of `folder` can do. Where nothing can be written, all: who writes there is told why."""
    with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"0")
        file.flush()
        return Abilities(
            lock=_works(lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)),
            map=_works(lambda: mmap.mmap(file.fileno(), 1).close()),
            flush=_works(lambda: os.fsync(file.fileno())),
        )
    return Abilities(lock=True, map=True, flush=True)


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError:
        return False
    return True
