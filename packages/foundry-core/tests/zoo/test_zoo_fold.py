"""What a scale rule multiplies in the forward pass leaves as weights: the model computes the same without the rule."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"


import pytest
import torch
from torch import nn

from foundry.core.config import Experiment, from_plain
from foundry.core.config.mutate import mutate
from foundry.core.contracts import InvalidData
from foundry.core.model import GPT, model_of
from foundry.core.model.init import init_buffers
from foundry.core.testing import assert_rounded, sums_of
from foundry.zoo import export, load
from foundry.zoo.fold_multipliers import folded

VOCAB = 61
SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24, "attention": "gqa_2kv"}
ALL = {"scaling": {"type": "completep", "base_n_embd": 16, "base_head_dim": 4, "base_n_layer": 1}}
"""Logits and branches by 1/2, scores by 1/sqrt(2)."""

YARN = {"type": "yarn", "factor": 4.0, "original_block_size": 24}
GPT2 = {"attention": "mha", "norm": "layernorm", "activation": "gelu", "position": "learned", "bias": True}
DEEPSEEK = {
    "attention": {"type": "mla", "q_lora_rank": 24, "norm_eps": 1e-6},
    "ffn": {"type": "moe", "n_experts": 4, "top_k": 2, "n_shared_experts": 1, "scoring": "sigmoid", "aux_loss": 0.0,
            "bias_update_rate": 1e-3},
}  # fmt: skip


def experiment(**model_args) -> Experiment:
    return from_plain({"model_args": {**SIZES, **ALL, **model_args}})


def random_model(config: Experiment) -> GPT:
    """Every parameter far from 0 and from 1, where a factor that is lost would not show."""
    model, generator = model_of(config, VOCAB).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0 if parameter.ndim > 1 else 0.5, 0.25, generator=generator)
    init_buffers(model)
    return model


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))


EXPORTED = {
    "llama": ({}, "llama"),
    "llama, untied, biases, YaRN": (
        {"tie_embeddings": False, "bias": True, "position": {"type": "rope", "scaling": YARN}},
        "llama",
    ),
    "llama, scaled to block_size": (
        {"position": {"type": "rope", "scaling": {"type": "llama3", "factor": 4.0}}},
        "llama",
    ),
    "mistral": ({"attention": {"type": "sliding_window", "window": 8, "n_kv_head": 2}, "dropout": 0.1}, "mistral"),
    "qwen2": ({"attention": {"type": "gqa", "n_kv_head": 2, "qkv_bias": True}}, "qwen2"),
    "qwen3": ({"attention": {"type": "gqa", "n_kv_head": 2, "qk_norm": True}}, "qwen3"),
    "olmo2": (
        {"attention": {"type": "gqa", "qk_norm": True, "qk_norm_over": "all_heads"}, "residual": "post"},
        "olmo2",
    ),
    "mixtral": ({"ffn": {"type": "moe", "n_experts": 4, "top_k": 2, "aux_loss": 0.05}}, "mixtral"),
    "deepseek_v3": (DEEPSEEK, "deepseek_v3"),
    "gpt2": (GPT2, "gpt2"),
    "mpt": ({**GPT2, "position": "alibi", "bias": False}, "mpt"),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_transformers_computes_what_the_rule_multiplied(name, ids, tmp_path):
    transformers = pytest.importorskip("transformers")
    model_args, architecture = EXPORTED[name]
    config = experiment(**model_args)
    model = random_model(config)
    assert 1 not in model.dims.multipliers
    assert export(config, None, model, tmp_path / "out").architecture == architecture
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits, _ = model(ids)
        assert_rounded(theirs(ids).logits, logits, *sums_of(model))
        again = load(tmp_path / "out")  # comes in as a model without a rule
        assert again.config.model_args.scaling.type == "none"
        assert_rounded(again.model(ids)[0], logits, *sums_of(model))


@pytest.mark.parametrize(("rule", "mutation"), [("mup", "width"), ("completep", "width"), ("completep", "depth")])
def test_a_wider_and_a_deeper_mutation_leave_too(rule, mutation, ids, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = mutate(experiment(scaling=rule), mutation, {"width": "128", "depth": "6"}[mutation]).experiment
    model = random_model(config)
    assert set(model.dims.multipliers) != {1}
    export(config, None, model, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert_rounded(theirs(ids).logits, model(ids)[0], *sums_of(model))


def test_at_its_base_a_rule_leaves_every_bit(tmp_path):
    model = random_model(experiment(scaling="none"))
    files = []
    for rule in ("none", "mup"):
        export(experiment(scaling=rule), None, model, tmp_path / rule)
        files.append([(tmp_path / rule / name).read_bytes() for name in ("config.json", "model.safetensors")])
    assert files[0] == files[1]


ELSEWHERE = {
    "sinks and softcap": {"attention": {"type": "gqa", "softcap": 5.0, "sinks": True}, "logit_softcap": 7.0},
    "nsa": {"attention": "nsa"},
    "sandwich": {"residual": "sandwich"},
    "the original transformer": {"residual": "post_add", "norm": "layernorm", "bias": True},
    "dyt": {"norm": "dyt", "bias": True},
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_parts_that_only_a_plugins_architecture_has_take_their_multipliers_too(name, ids):
    model, plain = (random_model(experiment(**ELSEWHERE[name], **rule)) for rule in ({}, {"scaling": "none"}))
    factors = folded(experiment(**ELSEWHERE[name]), model)
    with torch.no_grad():
        for path, parameter in plain.named_parameters():
            parameter *= factors.get(path, 1.0)
        assert_rounded(plain(ids)[0], model(ids)[0], *sums_of(model))


def test_a_layer_of_another_kind_takes_its_multipliers_where_it_can(ids):
    other = {"layers": {"1": {"attention": {"type": "gqa", "n_kv_head": 2, "qk_norm": True}}}}
    ruled = from_plain({"model_args": {**SIZES, **ALL}, **other})
    model = random_model(ruled)
    plain = random_model(from_plain({"model_args": {**SIZES, "scaling": "none"}, **other}))
    factors = folded(ruled, model)
    with torch.no_grad():
        for path, parameter in plain.named_parameters():
            parameter *= factors.get(path, 1.0)
        assert_rounded(plain(ids)[0], model(ids)[0], *sums_of(model))


class PlusOne(nn.Module):
    """A norm as Gemma has it: its weight is not what it multiplies with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.square().mean(-1, keepdim=True).rsqrt() * (1 + self.weight)


def test_a_multiplier_that_no_weight_can_take_is_refused_by_name(tmp_path):
    config = experiment()
    model = random_model(config)
    model.norm = PlusOne()
    with pytest.raises(InvalidData, match=r"multiplies logits.*no weight of the last norm"):
        export(config, None, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    untied = experiment(tie_embeddings=False)
    model = random_model(untied)
    model.norm = PlusOne()
    assert folded(untied, model)["head.weight"] == 0.5  # the head is a weight of its own


def test_a_layer_that_can_take_none_is_named(monkeypatch):
    config = experiment(attention={"type": "gqa", "qk_norm": True})
    model = random_model(config)
    monkeypatch.setattr("foundry.modules.norm.rmsnorm.RMSNorm.forward", PlusOne.forward)
    with pytest.raises(InvalidData, match=r"multiplies scores.*no weight of layer 0"):
        folded(config, model)
