"""Where a person's files are: the home folder, the cache, a path that somebody wrote."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundry.core.contracts import EnvironmentFailure
from foundry.core.system.refusals import writing


def user_path(text: str | Path) -> Path:
    """A path as a person wrote it: `~` and `~NAME` are home folders, as in a shell. Where there is no user NAME it is
    the name of a file, as in a shell.

    Raises:
        EnvironmentFailure: it begins with `~/`, and this account has no home folder.
    """
    path = os.fspath(text)
    expanded = os.path.expanduser(path)
    if expanded == path and path.split("/")[0] == "~":
        raise EnvironmentFailure(
            f"{path}: this account has no home folder: HOME is not set, and user {os.getuid()} is in no list of users",
            "set HOME, or write the path out",
        )
    return Path(expanded)


def cache_folder(configured: str | None = None) -> Path:
    """What can be made again, of all projects: `configured` (data.cache), else $FOUNDRY_CACHE, else `foundry` in the
    user's cache folder (XDG base directories, which say that a relative $XDG_CACHE_HOME is to be ignored). An account
    without a home folder that it may write to has a folder of its own among the temporary files.

    Raises:
        EnvironmentFailure: that one is somebody else's.
    """
    if chosen := configured or os.environ.get("FOUNDRY_CACHE"):
        return user_path(chosen).absolute()
    if os.path.isabs(base := os.environ.get("XDG_CACHE_HOME", "")):
        return Path(base) / "foundry"
    home = os.path.expanduser("~")
    if home != "~" and _can_be_used(folder := Path(home).absolute() / ".cache" / "foundry"):
        return folder
    return _own_folder(Path(_temporary()) / f"foundry-{os.getuid()}")


def _can_be_used(folder: Path) -> bool:
    """Whether a folder is there, or can be made."""
    if folder.is_dir():
        return True
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _own_folder(folder: Path) -> Path:
    """A folder in a place that everybody may write to, made if need be: nobody else may put anything into it."""
    with writing(folder, "set FOUNDRY_CACHE to a folder that you may write to"):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise EnvironmentFailure(
            f"{folder} is not safe: somebody else may write to it", "set FOUNDRY_CACHE to a folder of your own"
        )
    return folder


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A folder that is removed afterwards.

    Raises:
        EnvironmentFailure: there is no place for temporary files.
    """
    import tempfile

    _temporary()
    with tempfile.TemporaryDirectory(prefix=f"foundry-{purpose}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _temporary() -> str:
    import tempfile

    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise EnvironmentFailure(
            f"no folder for temporary files can be written: {error.strerror}", "set TMPDIR to one that can"
        ) from error
