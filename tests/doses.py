"""How much of what is slow a run of the tests takes: with FOUNDRY_SLOW_DOSE=small, `pytest -m slow` takes a little of
everything, as the gate does."""

import os
from collections.abc import Sequence
from typing import Any

import pytest

SMALL = os.environ.get("FOUNDRY_SLOW_DOSE") == "small"

not_in_small_doses = pytest.mark.skipif(SMALL, reason="not in small doses")


def dose(cases: Sequence[Any], everyday: int) -> list[Any]:
    """Of `cases`, pytest's parameters in the order of a fixed shuffle, the first `everyday` belong to the everyday
    tests; `pytest -m slow` takes the rest, in a small dose twice as many as belong to every day."""
    if SMALL:
        cases = cases[: 3 * everyday]
    slow = [pytest.param(*case.values, id=case.id, marks=pytest.mark.slow) for case in cases[everyday:]]
    return [*cases[:everyday], *slow]
