"""Where a person's files are, in accounts that lack a home folder, a name, or an absolute path."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tempfile
from pathlib import Path

import pytest

from foundry.core.contracts import EnvironmentFailure
from foundry.core.system import cache_folder, code_folder, not_trusted, user_path

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder, and none of the variables that say where the cache is."""
    for name in ("FOUNDRY_CACHE", "FOUNDRY_TRUST", "SUDO_UID", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_relative_xdg_cache_home_is_ignored(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each folder that a command is given in would have a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    assert cache_folder() == account / ".cache" / "foundry"
    monkeypatch.setenv("XDG_CACHE_HOME", str(account / "caches"))
    assert cache_folder() == account / "caches" / "foundry"


def test_an_account_without_a_home_or_a_name(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: object) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(pwd, "getpwnam", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(account))
    assert cache_folder().parent == account
    assert user_path("~notes.txt") == Path("~notes.txt")
    assert user_path("~nobody/x") == Path("~nobody/x")
    with pytest.raises(EnvironmentFailure, match=r"~/x: this account has no home folder"):
        user_path("~/x")


OURS = os.geteuid()
STRANGER = 54321


@pytest.mark.parametrize(
    ("owner", "group", "mode", "words"),
    [
        (OURS, OURS, 0o755, ""),
        (0, 0, 0o755, ""),
        (STRANGER, STRANGER, 0o755, f"belongs to another user ({STRANGER})"),
        (OURS, 4321, 0o775, "may be written by other users"),  # a group that nobody is alone in
        (OURS, 4321, 0o750, ""),
        (OURS, 0, 0o1777, "may be written by other users"),  # sticky: whoever makes a name first keeps it
        (0, 0, 0o777, "may be written by other users"),
    ],
)
def test_whose_code_is_run(account: Path, monkeypatch: pytest.MonkeyPatch, owner, group, mode, words) -> None:
    real = Path.stat

    def stat_of(path: Path, **how: bool) -> os.stat_result:
        found = real(path, **how)
        if path.name != "code":
            return found
        return os.stat_result((stat.S_IFDIR | mode, *found[1:4], owner, group, *found[6:]))

    (account / "code").mkdir()
    monkeypatch.setattr(Path, "stat", stat_of)
    reason = not_trusted(account / "code")
    assert words in reason
    assert bool(words) == bool(reason)
    for trusted in ("*", f"/nowhere:{account}", "~/code"):
        monkeypatch.setenv("FOUNDRY_TRUST", trusted)
        assert not not_trusted(account / "code")
    monkeypatch.setenv("FOUNDRY_TRUST", f"{account}/cod")
    assert not_trusted(account / "code") == reason
    monkeypatch.delenv("FOUNDRY_TRUST")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", str(STRANGER))  # who called sudo runs what is theirs
    assert bool(not_trusted(account / "code")) == (owner == OURS != 0 or "written" in words)


def test_a_group_that_bears_its_users_name_is_that_user(monkeypatch: pytest.MonkeyPatch, account: Path) -> None:
    """Where each user has such a group, folders that they make are theirs to write, and the group's."""
    members: list[str] = []
    monkeypatch.setattr(grp, "getgrgid", lambda group: grp.struct_group(("anna", "x", group, members)))
    monkeypatch.setattr(pwd, "getpwuid", lambda user: pwd.struct_passwd(("anna", "x", user, 0, "", "/", "")))
    account.chmod(0o775)
    assert not not_trusted(account)
    members.append("ben")
    assert "may be written by other users" in not_trusted(account)


def test_compiled_code_is_not_kept_where_others_may_write(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_folder("kernels") == account / ".cache" / "foundry" / "kernels"
    shared = account / "shared"
    shared.mkdir()
    monkeypatch.setenv("FOUNDRY_CACHE", str(shared))
    assert code_folder("kernels") == shared / "kernels"
    shared.chmod(0o777)
    assert code_folder("kernels") == account / ".cache" / "foundry" / "kernels"
    (account / ".cache" / "foundry" / "kernels").chmod(0o777)
    alone = code_folder("kernels")
    assert alone == code_folder("kernels")
    assert not alone.is_relative_to(account)
    assert not not_trusted(alone)
