"""Mutations: each keeps the experiment valid and the comparison fair, stacks, and becomes a file that loads as it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.project import write_project

from foundry.core.config import Experiment, from_plain, load_experiment
from foundry.core.config.mutate import Mutated, list_mutations, mutate
from foundry.core.config.remarks import remarks
from foundry.core.config.write_yaml import write_experiment
from foundry.core.contracts import DROP, Edits, ExitCode, InvalidExperiment, Mutation, PluginError, UsageError
from foundry.core.registry import Plugin, Registry, registry
from foundry.lab.sweep.arms import Axis

BASELINE = """\
# by hand
training:
  max_iters: 600        # a comment
  learning_rate: 1e-3
model_args: {n_layer: 4, n_head: 4, n_embd: 128, n_kv_head: 2, norm: rmsnorm}
seed: 7
"""


@pytest.fixture
def baseline(tmp_path: Path) -> Experiment:
    project = write_project(tmp_path, {"experiments/baseline.yaml": BASELINE})
    return load_experiment(project / "experiments" / "baseline.yaml")


def changes(mutated: Mutated) -> dict[str, tuple[Any, Any]]:
    return {change.key: (change.before, change.after) for change in mutated.changes}


def test_every_listed_mutation_works_and_its_file_loads_as_the_same_experiment(baseline: Experiment) -> None:
    rows = list_mutations(baseline.registry)
    slots = {slot.name for slot in baseline.registry.placed_slots} - {"dataset", "task"}
    assert {row.type for row in rows} >= {*slots, "depth", "width", "lr"}
    for row in rows:
        mutated = mutate(baseline, row.type, row.value)
        path = write_experiment(mutated, baseline.project / "experiments")
        assert path.name == f"{mutated.name}.yaml"
        written = load_experiment(path)
        assert written.identity == mutated.experiment.identity
        assert (written.name, written.seed) == (mutated.name, 7)
        assert written.explicit == mutated.experiment.explicit
        is_the_same = not mutated.changes or row.type == "scaling"  # whose rules change no bit at their base
        assert (written.identity == baseline.identity) == is_the_same


@pytest.mark.parametrize(
    ("type", "value", "name", "expected"),
    [
        ("attention", "gqa_1kv", "attn_gqa_1kv", {"model_args.attention.n_kv_head": (2, 1)}),
        ("attention", "mha", "attn_mha",
         {"model_args.attention": ("gqa", "mha")}),
        ("attention", "swa_64", "attn_swa_64",
         {"model_args.attention": ("gqa", {"type": "sliding_window", "window": 64, "n_kv_head": 2})}),
        ("norm", "layernorm", "norm_layernorm", {"model_args.norm": ("rmsnorm", "layernorm")}),
        ("activation", "gelu", "act_gelu", {"model_args.activation": ("swiglu", "gelu")}),
        ("tokenizer", "char", "tok_char", {"data.tokenizer": ("byte", "char")}),
        ("depth", "8", "depth_8", {"model_args.n_layer": (4, 8)}),
        ("width", "256", "width_256",
         {"model_args.n_embd": (128, 256), "model_args.n_head": (4, 8), "model_args.attention.n_kv_head": (2, 4)}),
        ("width", "64", "width_64",
         {"model_args.n_embd": (128, 64), "model_args.n_head": (4, 2), "model_args.attention.n_kv_head": (2, 1)}),
        ("lr", "3e-4", "lr_3e-4", {"training.learning_rate": (1e-3, 3e-4)}),
        ("lr", "0.0003", "lr_3e-4", {"training.learning_rate": (1e-3, 3e-4)}),
        ("batch_size", "32", "batch_32", {"training.batch_size": (16, 32), "training.max_iters": (600, 300)}),
        ("block_size", "64", "block_64", {"model_args.block_size": (128, 64), "training.max_iters": (600, 1200)}),
        ("warmup", "50", "warmup_50", {"training.schedule.warmup": (20, 50)}),
        ("grad_clip", "0", "clip_0", {"training.grad_clip": (1.0, 0.0)}),
        ("weight_decay", "0.05", "wd_0.05", {"training.optimizer.weight_decay": (0.1, 0.05)}),
        ("adam_betas", "0.8,0.99", "betas_0.8_0.99",
         {"training.optimizer.beta1": (0.9, 0.8), "training.optimizer.beta2": (0.95, 0.99)}),
        ("adam_betas", "0.9 0.95", "betas_0.9_0.95", {}),
        ("dropout", "0.1", "dropout_0.1", {"model_args.dropout": (0.0, 0.1)}),
        ("ema", "0.999", "ema_0.999", {"training.ema": (None, 0.999)}),
        ("param", "position.theta=5e4", "param_position.theta_50000",
         {"model_args.position.theta": (10000.0, 50000.0)}),
        ("param", "attention.qk_norm=true", "param_attention.qk_norm_true",
         {"model_args.attention.qk_norm": (False, True)}),
        ("param", "position.scaling={type: linear, factor: 2}", "param_position.scaling_type_linear_factor_2",
         {"model_args.position.scaling": (None, {"type": "linear", "factor": 2.0})}),
    ],
)  # fmt: skip
def test_what_a_mutation_changes(
    baseline: Experiment, type: str, value: str, name: str, expected: Mapping[str, Any]
) -> None:
    mutated = mutate(baseline, type, value)
    assert mutated.name == name
    assert changes(mutated) == expected


@pytest.mark.parametrize(
    ("type", "setting", "near"),
    [
        ("depth", {"model_args": {"n_layer": 6}}, "5 7 3 12"),
        ("depth", {"model_args": {"n_layer": 1}}, "2"),
        ("width", {"model_args": {"n_embd": 96, "n_head": 4}}, "48 72 120 144 192"),
        ("width", {"model_args": {"n_embd": 64, "n_head": 1}}, "128 192"),
        ("lr", {"training": {"learning_rate": 3e-3}}, "1.5e-3 2.1e-3 4.2e-3 6e-3"),
        ("batch_size", {"training": {"batch_size": 12}}, "6 24"),
        ("batch_size", {"training": {"batch_size": 1}}, "2"),
        ("block_size", {"model_args": {"block_size": 64}}, "32 128"),
        ("warmup", {"training": {"schedule": {"warmup": 30}}}, "15 60 0"),
        ("warmup", {"training": {"schedule": {"warmup": 0}}}, "0 20"),
        ("grad_clip", {"training": {"grad_clip": 4}}, "2 4 8 0"),
        ("grad_clip", {"training": {"grad_clip": 0}}, "0.5 1 2 0"),
        ("weight_decay", {"training": {"optimizer": {"weight_decay": 0.2}}}, "0.06 0.2 0.6 0"),
        ("weight_decay", {"training": {"optimizer": {"weight_decay": 0}}}, "0.03 0.1 0.3 0"),
        ("adam_betas", {"training": {"optimizer": {"beta1": 0.7, "beta2": 0.97}}},
         "0.8,0.97 0.9,0.97 0.95,0.97 0.7,0.9 0.7,0.95 0.7,0.98 0.7,0.99"),
        ("dropout", {}, "0 0.05 0.1 0.2"),
        ("ema", {}, "off 0.98 0.99 0.995 0.999"),
    ],
)  # fmt: skip
def test_what_a_search_tries_lies_around_what_there_is(type: str, setting: dict[str, Any], near: str) -> None:
    """Each of them is one that a mutation takes: up and down, away from nothing, and back to it."""
    base = from_plain(setting)
    nearby = base.registry.mutations[type].nearby
    assert nearby is not None
    assert [*nearby(base.plain())] == near.split()
    for value in near.split():
        mutate(base, type, value)


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("lr=3e-4, 1e-3", ("3e-4", "1e-3")),
        ("adam_betas=[0.9,0.95],[0.9,0.99]", ("[0.9,0.95]", "[0.9,0.99]")),
        ("param=position.scaling={type: ntk, factor: 4},position.theta=5e4",
         ("position.scaling={type: ntk, factor: 4}", "position.theta=5e4")),
    ],
)  # fmt: skip
def test_a_comma_in_brackets_is_its_values(baseline: Experiment, axis: str, values: tuple[str, ...]) -> None:
    parsed = Axis.parse(axis)
    assert parsed.values == values
    assert all(mutate(baseline, parsed.type, value).changes or value in ("1e-3", "[0.9,0.95]") for value in values)


def test_changes_are_told_as_one_would_write_them(baseline: Experiment) -> None:
    qk = mutate(baseline, "norm", "qknorm").experiment
    assert qk.identity != baseline.identity
    told = [str(change) for change in mutate(qk, "attention", "mla").changes]
    assert told == ["model_args.attention: {type: gqa, qk_norm: true} -> mla"]
    sssl = mutate(baseline, "attention", "sssl")
    assert list(map(str, sssl.changes)) == [
        "layers.SSSL/S.attention: the model's -> {type: sliding_window, n_kv_head: 2}"
    ]
    assert list(map(str, mutate(baseline, "ema", "0.9").changes)) == ["training.ema: null -> 0.9"]
    assert mutate(sssl.experiment, "attention", "sssl").changes == []


def test_what_may_not_be_meant_is_remarked_once() -> None:
    adamw = from_plain({"name": "adamw", "training": {"optimizer": "adamw"}})
    [remark] = mutate(adamw, "width", "256").remarks
    assert "stays that of n_embd 128" in remark
    assert "`foundry mutate scaling mup` first" in remark
    assert not mutate(mutate(adamw, "scaling", "mup").experiment, "width", "256").remarks
    assert not mutate(from_plain({"training": {"optimizer": "muon"}}), "width", "256").remarks
    assert not remarks(adamw, mutate(mutate(adamw, "width", "256").experiment, "lr", "5e-4").experiment)

    wide = mutate(adamw, "attention", "swa_256")
    assert wide.remarks == ["attention.window: 256 tokens cover a whole row (block_size 128): this is full attention"]
    assert not mutate(wide.experiment, "norm", "layernorm").remarks
    assert not mutate(adamw, "attention", "swa_64").remarks

    [remark] = mutate(adamw, "block_size", "64").remarks
    assert remark.startswith("max_iters 1200 is for as many tokens where rows are full; where documents are shorter")
    assert not mutate(from_plain({"training": {"tokens": 10**6}}), "block_size", "64").remarks
    assert not remarks(adamw, mutate(adamw, "block_size", "64").experiment)  # a sweep has the text, and needs none

    [remark] = mutate(mutate(adamw, "attention", "sssl").experiment, "attention", "mla").remarks
    assert remark.endswith("stays: SSSL/S (sliding_window)")
    [remark] = mutate(from_plain({"layers": {"0-": {"norm": "layernorm"}}}), "norm", "dyt").remarks
    assert remark.endswith("none gets this one")


def test_the_file_is_the_base_as_its_author_wrote_it_with_the_mutation_in_it(baseline: Experiment) -> None:
    stacked = mutate(mutate(baseline, "optimizer", "muon").experiment, "lr", "2.5e-4")
    assert stacked.name == "opt_muon+lr_2.5e-4"
    assert (
        stacked.text
        == """\
# lr 2.5e-4, from opt_muon

training:
  max_iters: 600
  learning_rate: 2.5e-4
  optimizer: muon

model_args:
  n_layer: 4
  n_head: 4
  n_embd: 128
  norm: rmsnorm
  attention: {type: gqa, n_kv_head: 2}

seed: 7
"""
    )


def test_params_that_were_written_move_on_to_a_variant_that_has_them_too() -> None:
    base = from_plain({
        "model_args": {"attention": {"type": "gqa", "n_kv_head": 1, "qk_norm": True}, "activation": "gelu"},
        "training": {"optimizer": {"type": "muon", "beta2": 0.99, "momentum": 0.9}, "schedule": {"warmup": 3}},
    })  # fmt: skip
    attention = mutate(base, "attention", "mha").experiment.model_args.attention
    assert (attention.type, attention.qk_norm) == ("mha", True)
    back = mutate(mutate(base, "attention", "mha").experiment, "attention", "gqa_4kv").experiment.model_args.attention
    assert (back.n_kv_head, back.qk_norm) == (4, True)
    optimizer = mutate(base, "optimizer", "adamw").experiment.training.optimizer
    assert (optimizer.type, optimizer.beta2) == ("adamw", 0.99)
    assert mutate(base, "schedule", "wsd").experiment.training.schedule.warmup == 3


def test_width_keeps_the_shape_of_layers_and_explicit_hidden_widths() -> None:
    base = from_plain({
        "model_args": {"n_head": 4, "n_embd": 128, "n_kv_head": 4, "ffn": {"hidden": 512}},
        "layers": {"1-": {"attention": {"type": "gqa", "n_kv_head": 2}, "ffn": {"hidden": 96}}},
    })  # fmt: skip
    wide = mutate(base, "width", "192").experiment
    assert (wide.dims().head_dim, wide.model_args.n_head) == (32, 6)
    assert wide.model_args.ffn.hidden == 768
    assert (wide.layer_args(1).attention.n_kv_head, wide.layer_args(1).ffn.hidden) == (3, 144)


@pytest.mark.parametrize(
    ("slot", "params", "key", "width", "expected"),
    [
        ("ffn", {"type": "moe", "hidden": 40}, "hidden", "160", 48),  # 50, and 8 must divide it
        ("ffn", {"type": "moe", "hidden": 8}, "hidden", "32", 8),
        ("ffn", {"type": "dense", "hidden": 42}, "hidden", "160", 52),  # 52.5, and it was even
        ("ffn", {"type": "dense", "hidden": 1}, "hidden", "32", 1),
        ("value_embedding", {"type": "gated", "gate_channels": 96}, "gate_channels", "64", 64),
        ("value_embedding", {"type": "gated", "gate_channels": 96}, "gate_channels", "96", 96),
        ("value_embedding", {"type": "gated", "gate_channels": 96}, "gate_channels", "256", 96),
    ],
)
def test_width_rounds_what_cannot_be_in_proportion(
    slot: str, params: dict[str, Any], key: str, width: str, expected: int
) -> None:
    sizes = {"n_head": 8, "n_embd": 128, "n_kv_head": 8}
    for data in ({"model_args": {**sizes, slot: params}}, {"model_args": sizes, "layers": {"1-": {slot: params}}}):
        narrow = mutate(from_plain(data), "width", width).experiment
        assert getattr(getattr(narrow.layer_args(3), slot), key) == expected


def test_other_budgets_stay_as_they_are() -> None:
    for budget in ({"tokens": 10**6}, {"flops": 1e12}, {"seconds": 30.0}):
        base = from_plain({"training": budget})
        assert set(changes(mutate(base, "batch_size", "64"))) == {"training.batch_size"}


@pytest.mark.parametrize(
    ("type", "value", "message"),
    [
        ("width", "100", "width 100: heads that keep their width (4 in 128) need a multiple of 32\n  try 64 or 192"),
        ("width", "32", "n_kv_head 2 of 4 heads has no equivalent among 1\n  try 64"),
        ("depth", "0", "model_args.n_layer: got 0; needs a whole number >= 1"),
        ("lr", "-1", "training.learning_rate: got -1.0; needs a number > 0"),
        ("lr", "nan", "training.learning_rate: got nan, which is not a finite number"),
        ("dropout", "1", "model_args.dropout: got 1.0; needs a number >= 0 and < 1"),
        ("attention", "gqa_4kv", ""),
        ("batch_size", "0", "training.batch_size: got 0"),
        ("adam_betas", "1,2", "training.optimizer.beta1: got 1.0"),
        ("param", "attention.type=mha", "chooses a variant and is not a setting\n  foundry mutate attention mha"),
        ("param", "position.scaling.factor=4", "baseline cannot be trained: model_args.position.scaling: has no key"),
    ],
)
def test_an_impossible_result_is_an_invalid_experiment(
    baseline: Experiment, type: str, value: str, message: str
) -> None:
    base = baseline if message else from_plain({"model_args": {"n_head": 3, "n_embd": 96}})
    with pytest.raises(InvalidExperiment) as caught:
        mutate(base, type, value)
    assert caught.value.exit_code == ExitCode.INVALID
    assert (message or "4 does not divide n_head 3; try 1 or 3") in str(caught.value)


def test_a_layer_that_a_shallower_model_lacks_is_named_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("layers:\n  3: {norm: layernorm}\n")
    with pytest.raises(InvalidExperiment, match=r"deep\.yaml:2:3: layers\.3: there is no layer 3"):
        mutate(load_experiment(file), "depth", "2")


@pytest.mark.parametrize(
    ("type", "value", "message"),
    [
        ("attention", "gqaa", "did you mean: attention gqa"),
        ("attention", "layernorm", "did you mean: norm layernorm"),
        ("Attention", "MLA", "did you mean: attention MLA"),
        ("attention", "MLA", "did you mean: attention mla"),
        ("layernorm", "x", "did you mean: norm layernorm"),
        ("dept", "8", "did you mean: depth 8"),
        ("depth", "deep", "needs a whole number, such as 8"),
        ("lr", "fast", "'fast' is not a number; one is 3e-4"),
        ("adam_betas", "0.9", "needs two numbers, such as 0.9,0.95"),
        ("seed", "3", "two experiments must share it to be comparable"),
        ("dataset", "text", "two experiments must share it to be comparable"),
        ("max_iters", "3", "two experiments must share it to be comparable"),
    ],
)
def test_what_is_no_mutation(baseline: Experiment, type: str, value: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        mutate(baseline, type, value)
    assert caught.value.exit_code == ExitCode.USAGE
    assert message in str(caught.value)


def test_the_same_name_with_other_content_is_refused(baseline: Experiment, tmp_path: Path) -> None:
    path = write_experiment(mutate(baseline, "lr", "3e-4"), tmp_path)
    content = path.read_text()
    assert write_experiment(mutate(baseline, "lr", "0.0003"), tmp_path) == path
    assert path.read_text() == content
    other = mutate(baseline, "depth", "2").experiment
    other = from_plain(other.explicit | {"name": "baseline"})
    with pytest.raises(InvalidExperiment, match="already exists, with other content"):
        write_experiment(mutate(other, "lr", "3e-4"), tmp_path)
    assert path.read_text() == content


def with_mutation(edit: Any) -> Registry:
    plugin = Plugin("acme", "1", "acme", "acme", (Mutation("trick", edit, "a trick", "1"),))
    return Registry([*registry().plugins, plugin])


def test_a_plugin_s_mutation_keeps_a_budget_of_tokens_to_the_token() -> None:
    edit = with_mutation(lambda experiment, value: {"training": {"tokens": 10**6 + int(value)}})
    base = from_plain({"training": {"tokens": 10**6}}, registry=edit)
    with pytest.raises(PluginError, match="changes the budget"):
        mutate(base, "trick", "1")
    assert mutate(base, "trick", "0").changes == []


def test_a_plugin_s_mutation_edits_drops_and_chooses() -> None:
    def edit(experiment: Mapping[str, Any], value: str) -> Edits:
        assert experiment["model_args"]["norm"] == {"type": "rmsnorm", "eps": 1e-5}  # resolved
        return {"model_args.attention": "gqa_1kv", "training.optimizer": DROP, "training.schedule.warmup": int(value)}

    base = from_plain({"training": {"optimizer": "muon"}}, registry=with_mutation(edit))
    mutated = mutate(base, "trick", "9").experiment
    assert mutated.model_args.attention.n_kv_head == 1
    assert (mutated.training.optimizer.type, mutated.training.schedule.warmup) == ("adamw", 9)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"seed": 3}, "edits seed, which two experiments must share"),
        ({"data.val_fraction": 0.5}, r"edits data.val_fraction, which"),
        ({"data": {"tokenizer": "char"}}, "edits data, which"),
        ({"eval.tasks": []}, r"edits eval.tasks, which"),
        ({"training.max_iters": 5000}, "changes the budget"),
        ({"training.seconds": 5}, r"edits training\.seconds, which"),
        ({"model_args.n_layer.deep": 5}, "holds no keys"),
        (["model_args"], "not a mapping of dotted paths"),
        (ZeroDivisionError("x"), "the mutation failed: ZeroDivisionError"),
    ],
)
def test_a_plugin_s_mutation_that_would_be_unfair_is_the_plugin_s_fault(edits: Any, message: str) -> None:
    def edit(experiment: Mapping[str, Any], value: str) -> Edits:
        if isinstance(edits, Exception):
            raise edits
        return dict(edits) if isinstance(edits, dict) else edits

    base = from_plain({"model_args": {"n_layer": 2}, "training": {"max_iters": 50}}, registry=with_mutation(edit))
    with pytest.raises(PluginError, match=message):
        mutate(base, "trick", "1")
