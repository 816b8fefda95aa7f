"""What an experiment file means: defaults, short ways of writing, `extends`, flags, layers, identity, JSON Schema."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field
from tests.golden import assert_golden

from foundry.core.config import Experiment, from_plain, json_schema, load_experiment
from foundry.core.config.document import Document
from foundry.core.config.layer_keys import parse_layers
from foundry.core.config.load import from_text
from foundry.core.config.merge import merge
from foundry.core.config.mutate import mutate
from foundry.core.config.reference import reference
from foundry.core.config.write_yaml import flow, number, to_yaml
from foundry.core.config.yaml import read_text, scalar
from foundry.core.contracts import AttentionParams, InvalidExperiment, Params, Section, Slot, Variant
from foundry.core.registry import Plugin, Registry, Selection, discover, registry


def load(tmp_path: Path, text: str, *sets: str, name: str = "x") -> Experiment:
    file = tmp_path / f"{name}.yaml"
    file.write_text(text)
    return load_experiment(file, sets)


def test_what_the_design_promises_to_load(tmp_path: Path) -> None:
    experiment = load(
        tmp_path,
        """
name: tiny
training: {max_iters: 5, learning_rate: 1e-3, dataset: stdlib, distributed: ddp, fsdp_min_params: 1e9}
model_args: {n_layer: 2, n_head: 4, n_kv_head: 2, n_embd: 64}
""",
    )
    assert experiment.name == "tiny"
    assert (experiment.training.max_iters, experiment.training.learning_rate) == (5, 0.001)
    assert experiment.training.fsdp_min_params == 1_000_000_000
    assert (experiment.model_args.attention.type, experiment.model_args.attention.n_kv_head) == ("gqa", 2)
    assert experiment.data.dataset.type == "stdlib"
    assert experiment.dims(vocab_size=256, layer=1).head_dim == 16


def test_what_parts_are_built_for_is_what_the_file_says() -> None:
    sizes = {"n_layer": 3, "n_head": 2, "n_embd": 64, "block_size": 24, "dropout": 0.3, "bias": True}
    expected = {**sizes, "vocab_size": 99, "layer": 2}
    dims = from_plain({"model_args": sizes}).dims(vocab_size=99, layer=2)
    assert asdict(dims) == {**expected, "head_dim": 32, "multipliers": dims.multipliers}
    dims = from_plain({"model_args": {**sizes, "head_dim": 24}}).dims(vocab_size=99, layer=2)
    assert asdict(dims) == {**expected, "head_dim": 24, "multipliers": dims.multipliers}


def test_an_almost_empty_file_is_all_defaults(tmp_path: Path) -> None:
    experiment = load(tmp_path, "training:\nmodel_args: {}\n", name="my-run")
    assert experiment.name == "my-run"
    assert experiment.training.max_iters == 600
    for slot in experiment.registry.slots.values():
        if slot.section in ("model_args", "training"):
            assert getattr(getattr(experiment, slot.section), slot.key).type == slot.default
    experiment.explicit["training"]["max_iters"] = 5  # of whoever asked, and of nobody else
    assert experiment.explicit == {"training": {}, "model_args": {}}


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("model_args: {attention: gqa_2kv}", "model_args: {attention: {type: gqa, n_kv_head: 2}}"),
        ("model_args: {attention: {type: gqa_2kv, qk_norm: true}}",
         "model_args: {attention: {type: gqa, n_kv_head: 2, qk_norm: true}}"),
        ("model_args: {n_kv_head: 1}", "model_args: {attention: {type: gqa, n_kv_head: 1}}"),
        ("model_args: {n_kv_head: 1, attention: {qk_norm: true}}",
         "model_args: {attention: {type: gqa, n_kv_head: 1, qk_norm: true}}"),
        ("model_args: {n_kv_head: 4, attention: mha}", "model_args: {attention: mha}"),
        ("model_args: {n_kv_head: 2, attention: gqa_2kv}", "model_args: {attention: gqa_2kv}"),
        ("training: {dataset: stdlib}", "data: {dataset: {type: stdlib}}"),
        ("training: {tokens: 1.5e6}", "training: {tokens: 1500000, max_iters: null}"),
        ("layers: {0-1: {norm: layernorm}, '3': {norm: layernorm}}", "layers: {'0,1,3': {norm: layernorm}}"),
        ("layers: {SLS/S: {norm: layernorm}}", "layers: {'0,2,3': {norm: layernorm}}"),
        ("layers: {SSSL/L: {norm: layernorm}}", "layers: {'3': {norm: layernorm}}"),
        ("layers: {2-: {ffn: {hidden: 64}}}", "layers: {2-3: {ffn: {type: dense, hidden: 64}}}"),
        ("model_args: {ffn: {hidden: 64}}\nlayers: {1-2: {ffn: {hidden: 64}}}", "model_args: {ffn: {hidden: 64}}"),
        ("training: {max_iters: &n 3, batch_size: *n}", "training: {max_iters: 3, batch_size: 3}"),
    ],
)  # fmt: skip
def test_short_and_long_ways_are_the_same(tmp_path: Path, short: str, long: str) -> None:
    a, b = load(tmp_path, short), load(tmp_path, long)
    assert a.identity == b.identity
    assert a.plain() | {"layers": None} == b.plain() | {"layers": None}


def test_order_is_defaults_then_extends_then_file_then_flags(tmp_path: Path) -> None:
    (tmp_path / "grandparent.yaml").write_text(
        "name: old\ntraining: {max_iters: 7}\n"
        "model_args: {n_layer: 2, attention: {type: gqa, n_kv_head: 1, qk_norm: true}}"
    )
    (tmp_path / "parent.yaml").write_text("extends: grandparent.yaml\ntraining: {batch_size: 8, learning_rate: 0.5}")
    text = "extends: parent.yaml\nmodel_args: {attention: {n_kv_head: 2}}\ntraining: {tokens: 1e5, learning_rate: 0.25}"
    experiment = load(tmp_path, text, "training.learning_rate=1e-4", "model_args.ffn.hidden=96")
    assert experiment.name == "x"  # a file is called by its own name, not by what it extends
    assert experiment.model_args.n_layer == 2
    assert experiment.model_args.attention.qk_norm is True  # without `type`, a choice merges
    assert experiment.model_args.attention.n_kv_head == 2
    assert (experiment.training.max_iters, experiment.training.tokens) == (None, 100_000)  # a budget replaces a budget
    assert experiment.training.batch_size == 8
    assert experiment.training.learning_rate == 1e-4
    assert experiment.model_args.ffn.hidden == 96
    replaced = load(tmp_path, text, "model_args.attention=mha")  # with another `type`, it replaces
    assert "n_kv_head" not in replaced.plain()["model_args"]["attention"]
    assert replaced.model_args.attention.qk_norm is False


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("SSSL/M", "not a pattern and one of its letters"),
        ("SSSL", "names no layers"),
        ("SSSSSL/L", "begins with layer 5; n_layer 4 has layers 0 to 3"),
        ("SSSL/S,1", "names layer 1 twice"),
    ],
)
def test_a_pattern_that_names_no_layers(key: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_layers(key, 4)


def test_layers(tmp_path: Path) -> None:
    experiment = load(
        tmp_path,
        """
model_args: {n_layer: 6, attention: {type: gqa, n_kv_head: 2, qk_norm: true}}
layers:
  0: {attention: {n_kv_head: 1}}
  "1-2,4": {attention: mha, norm: layernorm}
  5-: {position: none}
""",
    )
    layers = [experiment.layer_args(layer) for layer in range(6)]
    assert [args.attention.type for args in layers] == ["gqa", "mha", "mha", "gqa", "mha", "gqa"]
    assert (layers[0].attention.n_kv_head, layers[0].attention.qk_norm) == (1, True)  # on top of the model's
    assert layers[1].attention.qk_norm is False
    assert [args.norm.type for args in layers] == ["rmsnorm", *["layernorm"] * 2, "rmsnorm", "layernorm", "rmsnorm"]
    assert layers[5].position.type == "none"
    assert layers[3] is experiment.model_args


def test_plain_data_comes_back_as_the_same_experiment(tmp_path: Path) -> None:
    text = "seed: 3\ntraining: {seconds: 2.5, optimizer: muon}\nlayers: {1-: {ffn: {hidden: 8}}}"
    experiment = load(tmp_path, text)
    plain = json.loads(json.dumps(experiment.plain()))
    again = from_plain(plain)
    assert again.plain() == experiment.plain()
    assert again.identity == experiment.identity
    assert (again.name, again.seed) == ("x", 3)


# --------------------------------------------------------------------------------------------------------------------
# Identity

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model_args.n_layer": st.integers(1, 6),
    "model_args.dropout": st.floats(0, 0.9),
    "model_args.bias": st.booleans(),
    "model_args.logit_softcap": st.none() | st.integers(1, 50) | st.floats(1, 50),
    "model_args.attention": st.sampled_from(["mha", "gqa_1kv", "gqa_2kv"]),
    "model_args.norm": st.sampled_from(["rmsnorm", "layernorm"]),
    "model_args.ffn.hidden": st.none() | st.integers(8, 64),
    "training.learning_rate": st.floats(1e-6, 1, exclude_min=True),
    "training.max_iters": st.integers(1, 10**6),
    "training.grad_clip": st.sampled_from([0, 0.5, 1, 2.0]),
    "training.optimizer": st.sampled_from(["adamw", "muon"]),
    "training.schedule.warmup": st.integers(0, 50),
    "data.tokenizer": st.sampled_from(["byte", "char"]),
}
experiments = st.fixed_dictionaries({}, optional=FIELDS)


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        node = tree
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def spellings(value: Any) -> st.SearchStrategy[str]:
    """The ways to write a value that mean the same."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return st.just(flow(value))
    ways = [flow(value), repr(value), f"{value!r} # a comment", f"+{value!r}"]
    ways += [f"{value}.0", f"{value}.0e0"] if isinstance(value, int) else [f"{value:.17e}", f"{value:.17E}"]
    return st.sampled_from(ways)


@settings(max_examples=60, deadline=None)
@given(flat=experiments, data=st.data())
def test_identity_does_not_depend_on_spelling(flat: dict[str, Any], data: st.DataObject) -> None:
    plain = from_plain(nest(flat))
    ints = {"model_args.n_layer", "model_args.ffn.hidden", "training.max_iters", "training.schedule.warmup"}
    sections: dict[str, list[str]] = {}
    for key in data.draw(st.permutations(list(flat))):
        section, _, rest = key.partition(".")
        text = flow(flat[key]) if key in ints else data.draw(spellings(flat[key]))
        *parents, last = rest.split(".")
        line = f"{last}: {text}\n" if not parents else f"{parents[0]}:\n      {last}: {text}\n"
        sections.setdefault(section, []).append(f"    {line}")
    text = "# written by hand\n" + "".join(
        f"{section}:\n{''.join(lines)}" for section, lines in data.draw(st.permutations(list(sections.items())))
    )
    document = read_text(text or "{}", "x") if sections else read_text("{}", "x")
    written = from_plain(document.data)
    assert written.identity == plain.identity, text
    # Every default written out, and what is no identity changed.
    complete = plain.plain() | {"name": "other", "seed": 99}
    complete["logging"]["log_interval"] = 77
    complete["checkpoints"]["keep"] = 5
    assert from_plain(complete).identity == plain.identity


@settings(max_examples=60, deadline=None)
@given(first=experiments, second=experiments)
def test_identity_tells_experiments_apart(first: dict[str, Any], second: dict[str, Any]) -> None:
    a, b = from_plain(nest(first)), from_plain(nest(second))
    assert (a.identity == b.identity) == (a.plain() == b.plain())


def test_every_other_field_is_identity() -> None:
    """Each scalar of the resolved experiment, changed on its own, changes the identity or says that it does not."""
    base = from_plain({})
    changed: dict[str, dict[str, Any]] = {
        "model_args": {"n_layer": 5, "n_head": 8, "n_embd": 64, "head_dim": 16, "block_size": 64,
                       "tie_embeddings": False, "dropout": 0.5, "bias": True, "logit_softcap": 30.0},
        "training": {"max_iters": 5, "batch_size": 4, "micro_batch": 8, "learning_rate": 1.0, "grad_clip": 0.0,
                     "ema": 0.9, "eval_tokens": 64, "precision": "bf16", "compile": True,
                     "device": "cpu", "gradient_checkpointing": True, "threads": 1,
                     "distributed": "none", "fsdp_min_params": 0},
    }  # fmt: skip
    identities = {base.identity}
    for section, fields in changed.items():
        for field, value in fields.items():
            identities.add(from_plain({section: {field: value}}).identity)
    identities.add(from_plain({"init_from": "runs/x"}).identity)
    assert len(identities) == 2 + sum(map(len, changed.values()))


def test_what_a_file_leaves_out_means_what_it_always_meant() -> None:
    """Whoever changes a default changes what files that are there already train, and no run says so."""
    plain = from_plain({}).plain()
    scalars = {name: value for name, value in plain["model_args"].items() if not isinstance(value, dict)}
    assert scalars == {
        "n_layer": 4, "n_head": 4, "n_embd": 128, "head_dim": None, "block_size": 128, "tie_embeddings": True,
        "dropout": 0.0, "bias": False, "logit_softcap": None,
    }  # fmt: skip
    chosen = {name: value["type"] for name, value in plain["model_args"].items() if isinstance(value, dict)}
    assert chosen == {
        "attention": "mha", "ffn": "dense", "norm": "rmsnorm", "activation": "swiglu", "position": "rope",
        "residual": "pre", "canon": "none", "value_embedding": "none", "skip": "none", "scaling": "none",
    }  # fmt: skip
    assert plain["training"] == {
        "max_iters": 600, "tokens": None, "flops": None, "seconds": None, "batch_size": 16, "micro_batch": "auto",
        "learning_rate": 1e-3, "grad_clip": 1.0, "ema": None,
        "optimizer": {"type": "adamw", "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1},
        "schedule": {"type": "cosine", "warmup": 20, "min_factor": 0.1},
        "objective": {"type": "next_token"}, "loss": {"type": "cross_entropy", "z_loss": 0.0, "chunk_tokens": None},
        "eval_interval": 100, "eval_tokens": None, "precision": "auto", "compile": False, "kernels": "auto",
        "gradient_checkpointing": False, "device": "auto", "threads": "auto", "distributed": "auto",
        "fsdp_min_params": 10**9,
    }  # fmt: skip
    assert plain["logging"] == {"log_interval": 10, "sample_interval": 0, "sample_prompt": "", "sample_tokens": 200}
    assert plain["checkpoints"] == {"save_interval": 200, "keep": 2, "before_decay": True}
    assert (plain["seed"], plain["init_from"], plain["layers"]) == (1337, None, {})


EDGES: dict[str, tuple[list[Any], list[Any]]] = {
    # what a number may just be, and what not
    "seed": ([0, 2**63 - 1], [-1, 2**63]),
    "model_args.n_layer": ([1], [0]), "model_args.head_dim": ([2], [0]), "model_args.block_size": ([1], [0]),
    "model_args.dropout": ([0, 0.999], [-1e-9, 1]), "model_args.logit_softcap": ([1e-9], [0]),
    "training.max_iters": ([1], [0]), "training.tokens": ([1], [0]), "training.flops": ([1e-9], [0]),
    "training.seconds": ([1e-9], [0]), "training.batch_size": ([1, 2**24], [0, 2**24 + 1]),
    "training.micro_batch": ([1, 16], [0, 32]), "training.learning_rate": ([1e-30], [0]),
    "training.grad_clip": ([0], [-1e-9]), "training.ema": ([1e-9, 0.9999], [0, 1]),
    "training.eval_interval": ([0], [-1]), "training.eval_tokens": ([1], [0]),
    "training.threads": ([1, 1024], [0, 1025]), "training.fsdp_min_params": ([0], [-1]),
    "logging.log_interval": ([1], [0]), "logging.sample_interval": ([0], [-1]),
    "logging.sample_tokens": ([0, 10**6], [-1, 10**6 + 1]),
    "checkpoints.save_interval": ([0], [-1]), "checkpoints.keep": ([1], [0]),
}  # fmt: skip


@pytest.mark.parametrize("key", EDGES)
def test_a_number_may_go_to_the_edge_of_what_has_a_meaning(key: str) -> None:
    inside, outside = EDGES[key]
    for value in inside:
        from_plain(nest({key: value}))
    for value in outside:
        with pytest.raises(InvalidExperiment, match=re.escape(key)):
            from_plain(nest({key: value}))


def test_identity_is_pinned() -> None:
    """A change of this hash orphans every run: it must be meant."""
    assert from_plain({}).identity == from_plain(from_plain({}).plain()).identity
    text = {
        "model_args": {"n_kv_head": 2},
        "training": {"learning_rate": 3e-4},
        "layers": {"1-": {"norm": "layernorm"}},
    }
    canonical = {
        "layers": {str(layer): {"norm": {"type": "layernorm"}} for layer in (1, 2, 3)},
        "model_args": {"attention": {"type": "gqa"}},
        "training": {"learning_rate": 0.0003},
    }
    from hashlib import sha256

    expected = sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert from_plain(text).identity == expected


# --------------------------------------------------------------------------------------------------------------------
# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("3E-4", 0.0003), ("1.0e-3", 0.001), (".5", 0.5), ("-2.", -2.0), ("1e9", 10**9),
        ("1.5e6", 1_500_000), ("1_000", 1000), ("+3", 3), ("-0", 0), ("on", "on"), ("no", "no"), ("y", "y"),
        ("012", "012"), ("0o17", "0o17"),
        ("1:30", "1:30"), ("1e", "1e"), ("_1", "_1"), ("1__0", "1__0"), ("true", True), ("False", False), ("~", None),
        ("2026-11-20", "2026-11-20"), ("=", "="), ("1.2.3", "1.2.3"), ("nan", "nan"), (".inf", float("inf")),
    ],
)  # fmt: skip
def test_scalars(text: str, value: Any) -> None:
    read = scalar(text)
    assert read == value
    assert type(read) is type(value)


@given(st.floats(allow_nan=False) | st.integers())
def test_a_number_reads_back_as_it_was_written(value: float) -> None:
    assert scalar(number(value)) == value or abs(value) > 10**38


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc 0:'-#", max_size=5), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
def test_any_data_reads_back_as_it_was_written(value: Any) -> None:
    assert read_text(f"root: {flow(value)}", "x").data == {"root": value}


TEXTS = ("logging.sample_prompt", "data.dataset.path", "data.cache", "init_from")
ANY_TEXT = st.text(min_size=1).filter(lambda text: text != "null")
LOOKS_LIKE_YAML = (
    "corpus #1.txt", "*.txt", "@x", "2024", "1e-4", "on", "true", "~", " x ", "Q: what?", "[a", "{", "!!int 3", "- a",
    "'x'", '"x"', "a: b", "#", "---", "&a", "null ", "a\nb\r\n\x1b\x85\u2028\U0001f600", "%", "|", ">", "`", "\t",
)  # fmt: skip


def assert_arrives(tmp_path: Path, key: str, text: str) -> None:
    """By a flag, in config.json, and in a file that is written and read again."""

    def of(experiment: Experiment) -> Any:
        value: Any = experiment.plain()
        for part in key.split("."):
            value = value[part]
        return value

    experiment = load(tmp_path, "data: {dataset: {type: text, path: x}}", f"{key}={text}")
    assert of(experiment) == text
    assert of(from_plain(json.loads(json.dumps(experiment.plain())))) == text
    assert of(from_text(to_yaml(experiment), tmp_path, name="x")) == text


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(TEXTS), text=ANY_TEXT)
def test_what_follows_the_equals_sign_is_the_text(tmp_path: Path, key: str, text: str) -> None:
    assert_arrives(tmp_path, key, text)


@pytest.mark.parametrize("text", LOOKS_LIKE_YAML)
def test_a_text_that_looks_like_something_else_is_a_text(tmp_path: Path, text: str) -> None:
    assert_arrives(tmp_path, "data.dataset.path", text)


@pytest.mark.parametrize(
    "sets",
    [
        ("data.dataset.type=text", "data.dataset.path=#1"),
        ("training.dataset.type=text", "training.dataset.path=#1"),
        ("data.dataset=stdlib", "data.dataset={type: text, path: x}", "data.dataset.path=#1"),
    ],
)
def test_a_flag_for_a_choice_that_another_flag_makes(tmp_path: Path, sets: tuple[str, ...]) -> None:
    assert load(tmp_path, "seed: 1", *sets).data.dataset.path == "#1"


class Kinds(Params):
    """A field of each kind that may hold text."""

    text: str = ""
    maybe: str | None = None
    path: Path | None = None
    word: Literal["on", "no", "1"] = "on"
    word_or_number: Literal["auto"] | int = 1
    text_or_number: Annotated[str, Field(max_length=9)] | int | float | bool = 0
    texts: list[str] | None = None
    pair: tuple[str, ...] | None = None
    by_name: dict[str, str] | None = None
    text_or_texts: str | list[str] = ""
    numbers: list[float] | None = None


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("text", "null", "null"), ("text", "", ""), ("text", "1e-4", "1e-4"), ("text", "[a", "[a"),
        ("text", "a\n# b\n\x1b: c", "a\n# b\n\x1b: c"),
        ("maybe", "null", None), ("maybe", "~", "~"), ("maybe", "NULL", "NULL"), ("maybe", " null", " null"),
        ("path", "*.txt", "*.txt"), ("path", "null", None),
        ("word", "on", "on"), ("word", "1", "1"), ("word", "no", "no"),
        ("word_or_number", "auto", "auto"), ("word_or_number", "3", 3),
        ("text_or_number", "3", 3), ("text_or_number", "1e-4", 1e-4), ("text_or_number", "true", True),
        ("text_or_number", " 3", " 3"), ("text_or_number", "null", "null"), ("text_or_number", "#3", "#3"),
        ("texts", "[2024, on, null, a b]", ["2024", "on", "null", "a b"]), ("texts", "['a, b', ' c']", ["a, b", " c"]),
        ("pair", "[1e-4]", ["1e-4"]), ("pair", "null", None), ("by_name", "{a: 1, b: '2 #3'}", {"a": "1", "b": "2 #3"}),
        ("text_or_texts", "a, b", "a, b"), ("text_or_texts", "[1, b]", ["1", "b"]), ("text_or_texts", "null", "null"),
        ("numbers", "[1e-4, 2]", [1e-4, 2.0]), ("text_or_number", "[3]", "[3]"), ("word_or_number", " 3 ", 3),
    ],
)  # fmt: skip
def test_what_a_flag_and_a_mutation_mean_by_the_type_of_their_field(
    tmp_path: Path, field: str, text: str, value: Any
) -> None:
    slot = Slot("memory", "model_args.memory", "table", "what a model remembers")
    contributions = slot, Variant("memory", "table", "x:Y", Kinds)
    extended = Registry([*registry().plugins, Plugin("acme", "1", "acme", "acme", contributions)])
    (tmp_path / "x.yaml").write_text("seed: 1")
    flagged = load_experiment(tmp_path / "x.yaml", [f"model_args.memory.{field}={text}"], extended)
    mutated = mutate(from_plain({"seed": 1}, registry=extended), "param", f"memory.{field}={text}")
    assert read_text(mutated.text, "x").data.get("model_args", {}).get("memory", {}).get(field) == value
    for experiment in (flagged, mutated.experiment):
        assert experiment.plain()["model_args"]["memory"][field] == value
        assert type(experiment.plain()["model_args"]["memory"][field]) is type(value)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("data.dataset.path=", "got the text ''; needs text of at least 1 characters"),
        ("training.micro_batch=Q: x", "got the text 'Q: x'; needs a whole number"),
        ("seed=*x", "got the text '*x'; needs a whole number"),
        ("training.distributed=on", "got the text 'on'; needs auto, none"),
        ("data.dataset={type: text, path: 2024}", "got 2024; needs text of at least 1 characters; put it in quotes"),
        ("data.dataset.path=caf\udce9", r"'caf\udce9' is no Unicode text"),
        ("model_args.attention={type: caf\udce9}", r"character U+DCE9 is not text"),
        ("training.ema=[", "got the text '['; needs a number"),
        ("training.learning_rate=3e-4 # low", "got the text '3e-4 # low'; needs a number"),
        ("training.max_iters=", "got the text ''; needs a whole number"),
        ("model_args.attention=gqa # x", "attention has no variant 'gqa # x'"),
        ("model_args.attention={type: gqa", "did not find expected"),
    ],
)
def test_a_flag_that_is_no_value_says_what_is(tmp_path: Path, flag: str, words: str) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        load(tmp_path, "data: {dataset: {type: text, path: x}}", flag)
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_merge_keys_and_aliases(tmp_path: Path) -> None:
    text = "training: &t {max_iters: 5, grad_clip: 0.5}\nlogging: {log_interval: 3}\n"
    document = read_text(f"{text}other: {{<<: *t, max_iters: 7}}\n", "x")
    assert document.data["other"] == {"max_iters": 7, "grad_clip": 0.5}
    document = read_text(f"{text}l: &l {{max_iters: 9, seed: 1}}\nother: {{<<: [*t, *l]}}\n", "x")
    assert document.data["other"] == {"max_iters": 5, "grad_clip": 0.5, "seed": 1}  # the first one wins


# --------------------------------------------------------------------------------------------------------------------
# What plugins add


class Memory(Params):
    size: int = 4


class Curriculum(Params):
    order: str = "length"
    cache: str = Field("", json_schema_extra={"identity": False})


class NoPositions(AttentionParams):
    positions = frozenset({"nothing", "embeddings"})


def test_a_slot_and_a_section_of_a_plugin(tmp_path: Path) -> None:
    contributions = (
        Slot("memory", "model_args.memory", "", "what a model remembers", per_layer=True),
        Variant("memory", "table", "x:Y", Memory),
        Slot("curriculum", "lessons.curriculum", "by_length", "in which order it learns"),
        Variant("curriculum", "by_length", "x:Y", Curriculum),
        Section("lessons", Params),
        Variant("attention", "bag", "x:Y", NoPositions),
    )
    extended = Registry([*registry().plugins, Plugin("acme", "1", "acme", "acme", contributions)])
    plain = from_plain({}, registry=extended)
    assert plain.identity == from_plain({}).identity
    assert plain.plain()["model_args"]["memory"] is None
    assert from_plain(plain.plain(), registry=extended).plain() == plain.plain()
    text = {"layers": {"1": {"memory": {"type": "table", "size": 8}}}, "lessons": {"curriculum": {"order": "x"}}}
    experiment = from_plain(text, registry=extended)
    assert getattr(experiment.layer_args(1), "memory").size == 8  # noqa: B009
    assert experiment.plain()["lessons"] == {"curriculum": {"type": "by_length", "order": "x", "cache": ""}}
    cached = from_plain({"lessons": {"curriculum": {"cache": "/tmp"}}}, registry=extended)
    assert cached.identity == plain.identity  # the default choice, but for a param that is no identity
    with pytest.raises(Exception, match=r"rope acts on queries and keys; bag has no place.*learned, sinusoidal, none"):
        from_plain({"model_args": {"attention": "bag"}}, registry=extended)
    with pytest.raises(
        InvalidExperiment, match=r"layers\.2-\.attention: rope acts on queries and keys; bag has no place"
    ):
        from_plain({"layers": {"2-": {"attention": "bag"}}}, registry=extended)


def test_a_variant_whose_params_its_slot_cannot_ask_is_refused() -> None:
    plain = Plugin("acme", "1", "acme", "acme", (Variant("activation", "odd", "x:Y"),))
    extended = Registry([*registry().plugins, plain])
    assert "Params are not a subclass of ActivationParams" in extended.problems[-1].message
    assert "odd" not in extended.variants("activation")


def test_a_broken_plugin_that_may_hold_the_variant_is_named(tmp_path: Path) -> None:
    from foundry.core.contracts import PluginError, Problem

    broken = Registry(registry().plugins, [Problem("acme-attention", "acme", "cannot be imported: boom")])
    with pytest.raises(PluginError, match="acme-attention"):
        from_plain({"model_args": {"attention": "zigzag"}}, registry=broken)
    assert from_plain({"model_args": {"attention": "mha"}}, registry=broken).identity


@pytest.mark.parametrize("slot", registry().placed_slots, ids=lambda slot: slot.name)
def test_a_choice_of_another_type_keeps_nothing_of_the_one_below_it(slot: Slot) -> None:
    """Wherever a choice may stand; one of the same type keeps what it does not set itself."""
    places = [(slot.section, slot.key, "mine")] if slot.named else [(slot.section, slot.key)]
    places += [("layers", "0-1", slot.key)] if slot.per_layer else []
    for place in places:

        def at(choice: Any, place: tuple[str, ...] = place) -> Any:
            return reduce(lambda inner, key: {key: inner}, reversed(place), choice)

        below, above = {"type": "one", "size": 1, "bias": True}, {"type": "other", "size": 2}
        for over, expected in ((above, above), (above | {"type": "one"}, below | {"size": 2})):
            merged = merge(Document(at(below)), Document(at(over)), registry())
            assert merged.data == at(expected)


def test_the_schema_tells_of_each_choice_what_it_is_for() -> None:
    schema = json_schema(registry())
    layer = schema["properties"]["layers"]["additionalProperties"]["$ref"].rpartition("/")[2]
    for slot in registry().placed_slots:
        for section in (slot.section, layer) if slot.per_layer else (slot.section,):
            assert schema["$defs"][section]["properties"][slot.key]["description"] == slot.summary


def test_every_setting_has_its_default_and_its_limits() -> None:
    """A default that is another by a slip makes other experiments of all files that leave it out."""
    lines = []
    for section, described in json_schema(registry())["$defs"].items():
        for key, field in described.get("properties", {}).items():
            if key == "type" or "$ref" in json.dumps(field):
                continue
            default = f" = {json.dumps(field['default'])}" if "default" in field else ""
            limits = [_limits(kind) for kind in field.get("anyOf", [field])]
            lines.append(f"{section}.{key}{default}: {' or '.join(limits)}")
    assert_golden(Path(__file__).parent / "golden" / "settings.txt", "\n".join(sorted(lines)))


def _limits(kind: dict[str, Any]) -> str:
    """`integer, minimum 1`: the type, and all that a schema says of its values."""
    said = {key: value for key, value in kind.items() if key not in ("type", "title", "description", "default")}
    return ", ".join([str(kind.get("type", "any")), *(f"{key} {json.dumps(value)}" for key, value in said.items())])


def test_json_schema_accepts_what_loads(tmp_path: Path) -> None:
    schema = json_schema(registry())
    text = json.dumps(schema)
    names = set(schema["$defs"])
    for part in text.split('"#/$defs/')[1:]:
        assert part.partition('"')[0] in names
    model = schema["$defs"]["model_args"]
    attention = model["properties"]["attention"]["anyOf"]
    assert {"gqa", "gqa_2kv", "mha"} <= {option.get("const") for option in attention}
    assert {"$ref": "#/$defs/attention_gqa"} in attention
    assert "gqa_2kv" in schema["$defs"]["attention_gqa"]["properties"]["type"]["enum"]
    assert "n_kv_head" in model["properties"]
    assert not model.get("required")
    assert model["additionalProperties"] is False
    assert {"extends", "layers", "data", "eval"} <= set(schema["properties"])
    assert "dataset" in schema["$defs"]["training"]["properties"]
    layers = schema["properties"]["layers"]
    keys = re.compile(layers["propertyNames"]["pattern"])
    assert all(keys.search(key) for key in ("0", "0-2", "2-", "0,2, 4-", "SSSL/S", "SSSL/S,3"))
    assert not any(keys.search(key) for key in ("", "x", "0;1", "-2", "S/", "1,"))
    layer = schema["$defs"][layers["additionalProperties"]["$ref"].rpartition("/")[2]]["properties"]
    assert set(layer) == {slot.key for slot in registry().placed_slots if slot.per_layer}
    assert layer["attention"] == {
        key: value for key, value in model["properties"]["attention"].items() if key != "default"
    }


def test_nothing_heavy_is_imported() -> None:
    code = """
import sys
from foundry.core.config import from_plain
from foundry.core.config.mutate import mutate
mutate(from_plain({}), "attention", "mha").text
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy"} & set(done.stdout.split())


def test_a_path_in_the_place_of_a_datasets_name_is_text_of_ones_own():
    def dataset(written):
        return from_plain({"data": {"dataset": written}})

    own = dataset("texts/**/*.md")
    assert own.identity == dataset({"type": "text", "path": "texts/**/*.md"}).identity
    assert own.identity != dataset("texts/*.md").identity
    with pytest.raises(InvalidExperiment, match="dataset has no variant 'stdlb'; did you mean: dataset stdlib"):
        dataset("stdlb")
    with pytest.raises(InvalidExperiment, match=r"attention has no variant 'a\.txt'"):
        from_plain({"model_args": {"attention": "a.txt"}})


def test_the_reference_in_docs_is_that_of_what_is_installed():
    page = Path(__file__).parents[3] / "docs" / "configuration.md"
    own = Registry(*discover(page.parent, Selection.parse("-*")))
    made = reference(own)
    assert page.read_text() == made, "foundry config reference > docs/configuration.md"
    for row in ("| `max_iters` | whole number from 1 or null | `600` |", "| `n_kv_head` | whole number from 1 |"):
        assert row in made
    assert {f"## {slot.path}" for slot in own.placed_slots if own.variants(slot.name)} <= {*made.splitlines()}


def test_an_experiment_may_be_json(tmp_path):
    (tmp_path / "base.yaml").write_text("training: {batch_size: 4}\n")
    written = {
        "extends": "base.yaml",
        "model_args": {"n_layer": 1},
        "training": {"learning_rate": 1e-4, "grad_clip": 1e5},
    }
    for indent in (None, 2, "\t"):
        (tmp_path / "experiment.json").write_text(json.dumps(written, indent=indent))
        experiment = load_experiment(tmp_path / "experiment.json")
        assert (experiment.training.learning_rate, experiment.training.grad_clip) == (1e-4, 1e5)
        assert (experiment.name, experiment.training.batch_size) == ("experiment", 4)
