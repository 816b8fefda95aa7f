"""What the metrics of a run say of its experts, by the choices that layers report."""

import math

import pytest
import torch

from foundry.core.training.distributed import World
from foundry.core.training.expert_load import ExpertLoad

pytestmark = pytest.mark.quick


def test_it_is_of_all_choices_since_it_was_asked_for_last():
    load = ExpertLoad(World())
    load.add({"moe_0_load": torch.tensor([0, 5, 3, 0]), "moe_1_load": torch.tensor([0, 1])})
    load.add({"moe_0_load": torch.tensor([4, 0, 4, 0]), "moe_1_load": torch.tensor([0, 7])})
    of_first = math.log(4) + sum(share * math.log(share) for share in (4 / 16, 5 / 16, 7 / 16))
    assert load.read() == pytest.approx(
        {
            "expert_usage": (3 / 4 + 1 / 2) / 2,
            "expert_unevenness": (of_first + math.log(2)) / 2,
            "expert_largest_load": 2.0,  # of the second layer: all of its choices, not half
        }
    )
    assert load.read() == {}


def test_even_use_is_zero_nats_and_no_choices_are_no_division_by_zero():
    load = ExpertLoad(World())
    load.add({"peer_0_load": torch.full((1000,), 3)})
    even = dict.fromkeys(("expert_usage", "expert_largest_load"), 1.0)
    assert load.read() == pytest.approx({**even, "expert_unevenness": 0.0}, abs=1e-5)
    load.add({"peer_0_load": torch.zeros(10, dtype=torch.int64)})
    assert all(math.isfinite(value) for value in load.read().values())


def test_counts_of_all_ranks_are_exact(monkeypatch):
    """Also where half precision, or single, would round."""
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: tensor.mul_(2))
    own = {"moe_0_load": torch.tensor([2**24 + 1, 3]), "moe_1_load": torch.tensor([[1], [2**40 + 1]])}
    both = World(size=2).sum_tensors(own)
    assert {name: each.tolist() for name, each in both.items()} == {
        name: (2 * each).tolist() for name, each in own.items()
    }


def test_what_a_layer_reported_stays_as_it_is():
    """It may be counted for something else as well."""
    load, reported = ExpertLoad(World()), torch.tensor([1, 2])
    load.add({"moe_0_load": reported})
    load.add({"moe_0_load": reported})
    assert reported.tolist() == [1, 2]
