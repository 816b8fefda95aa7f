"""An experiment of few lines, which many tests here load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from foundry.core.config import Experiment, load_experiment


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Experiment]:
    """Loads an experiment, as its file says it."""

    def load(text: str) -> Experiment:
        file = tmp_path / "experiment.yaml"
        file.write_text(text)
        return load_experiment(file)

    return load
