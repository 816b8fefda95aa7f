from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("foundry", deadline=None)  # a busy machine is no failure
settings.load_profile("foundry")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test, beside its working directory."""
    monkeypatch.setenv("FOUNDRY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "cache"
