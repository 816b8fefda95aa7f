"""What the system may answer instead of doing what it is asked, and the way out of each."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundry.core.contracts import EnvironmentFailure, FoundryError, InvalidData
from foundry.core.system.files import UnfitFile

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
NOT_OURS = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))

_WAYS_OUT = {
    errno.EBUSY: "it is a mount of its own: mount the folder that it is in, instead",
    errno.EXDEV: "it is on another disk than its folder: mount the folder that it is in, instead",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "this process may open no more files: raise the limit (ulimit -n)",
    errno.ENFILE: "this machine has too many files open: end something",
    errno.EAGAIN: "this account may start no more processes: end some, or raise the limit (ulimit -u)",
    errno.ENOMEM: "there is no memory left: end something, or give the container more",
    errno.EIO: "look at the disk, or mount it again",
    errno.ESTALE: "the network file system has lost it: mount it again",
    errno.ENODEV: "the device is gone: mount it again",
    errno.ENOSYS: "this system has no such call: choose another file system",
    errno.EOPNOTSUPP: "this file system cannot do that: choose another one",
    errno.ENOLCK: "this file system has no locks: choose another one",
}
"""Beside FULL and NOT_OURS, where it depends on what is written."""


NOT_NOW = NOT_OURS | {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENODEV}
"""What is answered of a file that may be whole: it cannot be read now, or not by us."""


def unread(error: OSError, path: Path) -> FoundryError:
    """Why a file could not be read: because of the file, which is missing or broken, or because of the machine."""
    where = f"{error.filename or path}: {error.strerror}"
    if error.errno not in NOT_NOW:
        return InvalidData(where)
    hint = "make it readable for this account" if error.errno in NOT_OURS else way_out(error)
    return EnvironmentFailure(f"cannot read {where}", hint)


def refusal(error: BaseException) -> FoundryError | None:
    """What nobody expected, where it is the machine's answer, or a file's, and no mistake of Foundry's or of a
    plugin's."""
    if not isinstance(error, OSError):
        return None
    if isinstance(error, UnfitFile):
        return InvalidData(f"{error.filename}: {error.strerror}", "remove it, or put the right file in its place")
    if error.errno in FULL | NOT_OURS or error.errno in _WAYS_OUT:
        place = f": {error.filename}" if error.filename else ""
        return EnvironmentFailure(f"{error.strerror}{place}", way_out(error))
    if isinstance(error, FileNotFoundError) and not _has_working_directory():
        return EnvironmentFailure("the working directory no longer exists", "change to one that exists: cd FOLDER")
    return None


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def way_out(error: OSError, elsewhere: str = "choose another place") -> str:
    """What to do about it, in a few words.

    Args:
        elsewhere: how to have it at another place.
    """
    if error.errno in FULL:
        return f"free some space, or {elsewhere}, then run again"
    return _WAYS_OUT.get(error.errno or 0, f"make it writable, or {elsewhere}")


@contextmanager
def writing(path: Path, elsewhere: str = "choose another place") -> Iterator[None]:
    """Turns what the system answers while `path` is written into an EnvironmentFailure that names the way out."""
    try:
        yield
    except OSError as error:
        at = Path(error.filename) if isinstance(error.filename, str) and error.errno in NOT_OURS else path
        raise EnvironmentFailure(f"cannot write {at}: {error.strerror or error}", way_out(error, elsewhere)) from error
