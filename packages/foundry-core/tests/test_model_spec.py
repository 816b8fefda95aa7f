"""What a model is made of, and what of it follows another width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from foundry.core.config import Experiment, from_plain
from foundry.core.config.assemble import as_wide_as
from foundry.core.contracts import DROP, Dims, InvalidExperiment, OptionalParams

pytestmark = pytest.mark.quick

SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 32, "block_size": 16}
EXPERIMENTS = {
    "plain": {},
    "key/value heads, in one layer others": {
        "model_args": {"attention": {"type": "gqa", "n_kv_head": 2}},
        "layers": {"1": {"attention": {"type": "gqa", "n_kv_head": 4}}},
    },
    "ranks, experts and a scale rule": {
        "model_args": {
            "attention": {"type": "mla", "kv_lora_rank": 8},
            "ffn": {"type": "moe", "n_experts": 4},
            "scaling": {"type": "mup"},
        },
        "layers": {"0": {"ffn": {"type": "peer", "n_experts": 64}}},
    },
    "heads of a width of their own": {"model_args": {"head_dim": 16, "ffn": {"type": "dense", "hidden": 48}}},
}


def experiment_of(name: str) -> Experiment:
    given = EXPERIMENTS[name]
    return from_plain({**given, "model_args": {**SIZES, **given.get("model_args", {})}})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_spec_follows_a_width_as_the_mutation_does(name):
    """Narrower, wider and as it is. An experiment is edited as text and read anew; a spec knows no experiment."""
    experiment = experiment_of(name)
    spec = experiment.model_spec(50)
    for n_embd in (16, 32, 64):
        assert spec.as_wide_as(n_embd) == as_wide_as(experiment, n_embd).model_spec(50)
    assert spec.as_wide_as(64) != spec
    with pytest.raises(InvalidExperiment, match="heads that keep their width"):
        spec.as_wide_as(36)


class Wide(OptionalParams):
    extra: int | None = None

    def resized(self, old: Dims, new: Dims) -> Mapping[str, Any]:
        return {"extra": DROP}


def test_a_setting_that_a_choice_drops_at_another_width_has_its_default_again():
    spec = replace(experiment_of("plain").model_spec(50), skip=Wide(extra=3))
    assert spec.as_wide_as(64).skip == Wide()
