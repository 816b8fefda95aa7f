"""How many of a long list of cases a run of the tests takes."""

import os
from collections.abc import Sequence
from typing import Any

import pytest


def dose(cases: Sequence[Any], everyday: int) -> list[Any]:
    """Of `cases`, pytest's parameters in the order of a fixed shuffle, the first `everyday` belong to the everyday
    tests; `pytest -m slow` takes the rest, and with FOUNDRY_SLOW_DOSE=small twice as many as belong to every day."""
    if os.environ.get("FOUNDRY_SLOW_DOSE") == "small":
        cases = cases[: 3 * everyday]
    slow = [pytest.param(*case.values, id=case.id, marks=pytest.mark.slow) for case in cases[everyday:]]
    return [*cases[:everyday], *slow]
