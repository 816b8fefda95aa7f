"""Where a person's files are, in accounts that lack a home folder, a name, or an absolute path."""

from __future__ import annotations

import pwd
import tempfile
from pathlib import Path

import pytest

from foundry.core.contracts import EnvironmentFailure
from foundry.core.system import cache_folder, user_path


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder, and none of the variables that say where the cache is."""
    for name in ("FOUNDRY_CACHE", "XDG_CACHE_HOME"):
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
