"""What a model costs, against the closed forms that one would write down by hand."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import foundry.core.analyze as analysis
from foundry.core import counts
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


def test_a_model_is_counted_once_on_a_machine(monkeypatch, tmp_path):
    counted: list[int] = []
    count = analysis._forward_flops
    monkeypatch.setenv("FOUNDRY_CACHE", str(tmp_path))
    monkeypatch.setattr(analysis, "_forward_flops", lambda *what: counted.append(1) or count(*what))
    one, other = (from_plain({"model_args": SIZES, "seed": seed}) for seed in (1, 2))
    deeper = from_plain({"model_args": SIZES | {"n_layer": LAYERS + 1}})
    asked = ((one, V), (other, V), (one, 2 * V), (deeper, V))

    def told() -> list[float]:
        """As a process that has just begun is told."""
        monkeypatch.setattr(counts, "_known", {})
        return [analysis.flops_per_token(*what) for what in asked]

    first = told()
    assert len(counted) == 3
    assert len(set(first)) == 3
    assert [analyze(*what)["flops_per_token"] for what in asked] == first
    assert told() == first
    assert len(counted) == 3
    for file in tmp_path.rglob("*.json"):  # a digit is lost
        file.write_text(file.read_text().replace("0", "", 1))
    assert told() == first
    assert len(counted) == 6
    monkeypatch.setattr(counts, "code_fingerprint", lambda experiment: "of edited code")
    assert told() == first
    assert len(counted) == 9


def test_a_training_of_what_was_counted_imports_no_compiler(tmp_path):
    """That takes as long as to import torch: users wait for it, and each worker of a sweep."""
    (tmp_path / "corpus.txt").write_text("the hen on the hill " * 60)
    (tmp_path / "tiny.yaml").write_text(
        "model_args: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 16}\n"
        "data: {dataset: {type: text, path: corpus.txt}, tokenizer: byte}\n"
        "training: {max_iters: 2, batch_size: 4, eval_tokens: 64, optimizer: muon}\n"
    )
    code = (
        "import sys; from foundry.cli.__main__ import main; code = main(['train', 'tiny.yaml', '--resume', 'never']);"
        "print(code, sorted({'torch._dynamo', 'sympy', 'torch'} & set(sys.modules)))"
    )
    for compiler in (["sympy", "torch", "torch._dynamo"], ["torch"]):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "FOUNDRY_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines()[-1] == f"0 {compiler}", done.stderr


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
