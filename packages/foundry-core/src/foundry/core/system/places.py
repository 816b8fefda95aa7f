"""Where a person's files are: the home folder, the cache, a path that somebody wrote; and whose a file is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
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
            f"{path}: this account has no home folder: HOME is not set, and there is no user {os.getuid()}",
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
    return _users_cache()


def _users_cache() -> Path:
    if os.path.isabs(base := os.environ.get("XDG_CACHE_HOME", "")):
        return Path(base) / "foundry"
    home = os.path.expanduser("~")
    if home != "~" and _can_be_used(folder := Path(home).absolute() / ".cache" / "foundry"):
        return folder
    return _own_folder(Path(_temporary()) / f"foundry-{os.getuid()}")


def code_folder(name: str) -> Path:
    """Where code that was compiled here is kept, which whoever loads it runs: `name` in the cache; where somebody else
    may write to that, in this user's own cache; at last among the temporary files, for this process alone."""
    for place in (cache_folder, _users_cache):
        with suppress(EnvironmentFailure, OSError):
            folder = place() / name
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (not_trusted(folder.parent) or not_trusted(folder)):
                return folder
    return _folder_of_this_process(name)


@cache
def _folder_of_this_process(name: str) -> Path:
    import atexit
    import tempfile

    _temporary()
    alone = tempfile.TemporaryDirectory(prefix=f"foundry-{name}-", ignore_cleanup_errors=True)
    atexit.register(alone.cleanup)
    return Path(alone.name)


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
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or others_may_write(found):
        raise EnvironmentFailure(
            f"{folder} is not safe: other users may write to it", "set FOUNDRY_CACHE to a folder of your own"
        )
    return folder


# --------------------------------------------------------------------------------------------------------------------
# Whose is it?


def not_trusted(path: Path) -> str:
    """Why code that lies there is not run, as one line with the way out; empty: it is run.

    As git has it for a repository's folder: a file or folder, and the folder it is in, has to be this user's, and
    nobody else may write to it. What the system's administrator has put there is as good, because whose Python this is
    decides anyway. Under sudo, what belongs to whoever called it is, too. FOUNDRY_TRUST names other folders, with what
    is below them.
    """
    real = Path(os.path.realpath(path))
    if _is_named_in(os.environ.get("FOUNDRY_TRUST", ""), real):
        return ""
    for place in dict.fromkeys((path, path.parent, real, real.parent) if not path.is_dir() else (path, real)):
        if reason := _whose(place):
            folder = real if real.is_dir() else real.parent
            return f"{reason}, so no code there is run: set FOUNDRY_TRUST={folder} if you trust them"
    return ""


def _whose(place: Path) -> str:
    try:
        found = place.stat()
    except OSError:  # it is gone, or may not be looked at: whoever opens it says so
        return ""
    if found.st_uid not in _we():
        return f"{place} belongs to another user ({_name_of(found.st_uid)})"
    if others_may_write(found):
        return f"{place} may be written by other users"
    return ""


def others_may_write(found: os.stat_result) -> bool:
    """Whether somebody but its owner may write to a file or folder. A group that bears its owner's name, which many
    systems give each user, is that user."""
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _is_alone_in(found.st_gid, found.st_uid)


def _is_alone_in(group: int, user: int) -> bool:
    import grp

    name = _name_of(user)
    try:
        known = grp.getgrgid(group)
    except KeyError:  # of a container: no list of groups has it
        return group == user
    return known.gr_name == name and not {*known.gr_mem} - {name}


def _name_of(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _we() -> set[int]:
    """Whose code runs with our rights: ours, root's, and of whoever became root by sudo."""
    ours = {0, os.geteuid()}
    caller = os.environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and caller.isdecimal():
        ours.add(int(caller))
    return ours


def _is_named_in(trusted: str, path: Path) -> bool:
    folders = [folder for folder in trusted.split(os.pathsep) if folder]
    return any(folder == "*" or path.is_relative_to(os.path.realpath(user_path(folder))) for folder in folders)


# --------------------------------------------------------------------------------------------------------------------


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
            f"no folder for temporary files can be written: {error.strerror}", "set TMPDIR to a writable folder"
        ) from error
