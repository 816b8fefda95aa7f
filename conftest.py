"""For every test: the quick tier, `uv run pytest -m quick`, and a machine that nobody else keeps busy."""

from __future__ import annotations

from pathlib import Path

import pytest

MARK = "pytestmark = pytest.mark.quick"


def _is_quick(config: pytest.Config) -> bool:
    return config.getoption("markexpr") == "quick"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """To import all tests takes longer than to run the quick ones, whose files say so in a line of their own."""
    if not _is_quick(config) or not collection_path.match("test_*.py"):
        return None
    return True if MARK not in collection_path.read_text(encoding="utf-8").splitlines() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A slow test in a quick file stays slow."""
    if _is_quick(config):
        left_out = [item for item in items if item.get_closest_marker("slow") or item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _alone_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run beside one another, of which a command would tell."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
