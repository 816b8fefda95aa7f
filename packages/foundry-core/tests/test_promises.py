"""What a plugin's parts may answer, and that looking at it leaves them as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundry.core.contracts import Params, Variant
from foundry.core.model.promises import PROMISES, _watched

pytestmark = pytest.mark.quick

SUM, COUNT, ROWS = torch.tensor(7.0), torch.tensor(12), torch.zeros(3)


@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        ((SUM, COUNT, {}), True),
        ((SUM, COUNT, {"margin": ROWS, "z": SUM, "moe_0_load": torch.zeros(7), "moe_0_count": torch.zeros(7)}), True),
        ((SUM, COUNT, {"margin": torch.zeros(7)}), False),
        ((ROWS, COUNT, {}), False),
        ((SUM, ROWS, {}), False),
        ((SUM, 12, {}), False),
        ((SUM, COUNT), False),
    ],
)
def test_a_loss_answers_a_sum_a_count_and_figures_by_row(answer, is_kept):
    (promise,) = PROMISES["loss"]
    assert promise.holds(answer, (torch.zeros(3, 4, 8),)) == is_kept


def test_a_part_that_was_looked_at_is_as_it_was():
    part, variant = nn.Linear(2, 2), Variant("norm", "mine", "torch.nn:Linear", Params)
    (promise,) = PROMISES["norm"]
    seen = []
    with (
        _watched(part, variant, promise, lambda *_: seen.append("outer")),
        _watched(part, variant, promise, lambda *_: seen.append("inner")),
    ):
        part(torch.ones(2))
    assert seen == ["outer", "inner"]
    assert "forward" not in vars(part)  # it is the class's again
