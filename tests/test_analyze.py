"""What a model costs, against the closed forms that one would write down by hand."""

from __future__ import annotations

import pytest

import foundry.core.analyze as analysis
from foundry.core.analyze import analyze
from foundry.core.config import from_plain

V, T, C, LAYERS, HEADS, KV_HEADS, HIDDEN, ROWS = 50, 16, 32, 3, 4, 2, 80, 8
KV = C // HEADS * KV_HEADS
ATTENTION, FFN = C * (C + 2 * KV) + C * C, 2 * C * HIDDEN  # weights of a layer, none of which is a bias
SIZES = {
    "n_layer": LAYERS, "n_head": HEADS, "n_embd": C, "block_size": T, "activation": "gelu",
    "attention": {"type": "gqa", "n_kv_head": KV_HEADS}, "ffn": {"hidden": HIDDEN},
}  # fmt: skip


def figures(**training) -> dict:
    return analyze(from_plain({"model_args": SIZES, "training": {"batch_size": ROWS, **training}}), V)


def test_parameters_products_and_caches_are_the_closed_forms():
    told = figures()
    norms = (2 * LAYERS + 1) * C
    assert told["parameters"] == told["active_parameters"] == V * C + norms + LAYERS * (ATTENTION + FFN)
    by_part = {"attention": LAYERS * (2 * ATTENTION + 4 * T * C), "ffn": LAYERS * 2 * FFN, "head": 2 * V * C}
    assert told["flops_per_token_by_part"] == by_part
    assert told["flops_per_token"] == sum(by_part.values())
    assert told["training_flops_per_token"] == 3 * told["flops_per_token"]
    assert told["kv_bytes_per_token"] == LAYERS * 2 * KV * 4


def test_the_products_of_all_seeds_are_counted_once(monkeypatch):
    counted: list[int] = []
    count = analysis._forward_flops
    monkeypatch.setattr(analysis, "_flops", {})
    monkeypatch.setattr(analysis, "_forward_flops", lambda *what: counted.append(1) or count(*what))
    one, other = (from_plain({"model_args": SIZES, "seed": seed}) for seed in (1, 2))
    deeper = from_plain({"model_args": SIZES | {"n_layer": LAYERS + 1}})
    told = [analysis.flops_per_token(*what) for what in ((one, V), (other, V), (one, 2 * V), (deeper, V))]
    assert len(counted) == 3
    whole = [analyze(*what)["flops_per_token"] for what in ((one, V), (other, V), (one, 2 * V), (deeper, V))]
    assert told == whole
    assert len(set(told)) == 3


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_memory_is_four_bytes_for_each_number_that_is_kept(optimizer):
    told = figures(optimizer=optimizer, ema=0.9)
    n = told["parameters"]
    matrices = LAYERS * (ATTENTION + FFN) if optimizer == "muon" else 0  # of which Muon keeps a momentum alone
    assert {rate["parameters"] for rate in told["learning_rates"]} == {n - matrices, matrices} - {0}
    expected = {"weights": 4 * n, "gradients": 4 * n, "ema": 4 * n, "optimizer": 4 * (2 * n - matrices)}
    assert {part: told["memory"][part] for part in expected} == expected
    assert told["memory"]["total"] == sum(expected.values()) + told["memory"]["activations"]


def test_activations_are_those_of_the_rows_that_are_computed_at_once():
    whole, *parts = (figures(micro_batch=rows)["memory"]["activations"] for rows in ("auto", 8, 4, 1))
    assert parts == [whole, whole / 2, whole / 8]
    assert ROWS * T * C * LAYERS * 4 < whole < ROWS * T * C * LAYERS * 4 * 100
