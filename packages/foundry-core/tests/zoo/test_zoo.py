"""Models of transformers with random weights, in and out: logits, gradients, greedy text, every bit."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from foundry.core.contracts import InvalidData
from foundry.core.contracts.architecture import Config, Only
from foundry.core.generate import Sampling, generate_ids
from foundry.core.registry import registry
from foundry.core.testing import assert_gradients_rounded, assert_rounded, sums_of
from foundry.core.testing.rounding import rounding
from foundry.zoo import export, load, load_pretrained
from foundry.zoo.config_json import experiment_of, family_of, layers_of
from foundry.zoo.shards import INDEX, WeightsFolder
from foundry.zoo.weights import pairs

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

VOCAB, T = 101, 40
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 48, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip


def gpt2(**more):
    sizes = {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 48}
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 1}
    return transformers.GPT2Config(**{**sizes, **dropouts, **more})


def deepseek(**more):
    sizes = {
        "moe_intermediate_size": 32, "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3,
        "first_k_dense_replace": 1, "kv_lora_rank": 32, "q_lora_rank": 24, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16, "v_head_dim": 12,
    }  # fmt: skip
    return transformers.DeepseekV3Config(**{**SIZES, "num_key_value_heads": 4, **sizes, **more})


CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama tied, biased, gelu": lambda: transformers.LlamaConfig(
        **SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, hidden_act="gelu"
    ),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=8),
    "qwen2, windows in some layers": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "llama 3": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=dict(LLAMA3)),
    "llama, yarn": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    ),
    "llama, linear": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=32),
    "olmo2": lambda: transformers.Olmo2Config(**SIZES),
    "phi3, a window": lambda: transformers.Phi3Config(**SIZES, sliding_window=8),
    "phi3": lambda: transformers.Phi3Config(**SIZES, tie_word_embeddings=True),
    "mixtral": lambda: transformers.MixtralConfig(**SIZES, num_local_experts=4),
    "deepseek_v3": lambda: deepseek(),
    "deepseek_v3, yarn, no query rank": lambda: deepseek(
        q_lora_rank=None,
        first_k_dense_replace=0,
        n_shared_experts=2,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "mscale": 0.7,
            "mscale_all_dim": 0.9,
        },
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "gpt2": gpt2,
    "gpt2 untied, narrow, relu": lambda: gpt2(tie_word_embeddings=False, n_inner=100, activation_function="relu"),
    "mpt": lambda: transformers.MptConfig(
        vocab_size=VOCAB, d_model=64, n_heads=4, n_layers=3, max_seq_len=48, bos_token_id=1, eos_token_id=1
    ),
    "mpt with 6 heads": lambda: transformers.MptConfig(
        vocab_size=VOCAB, d_model=96, n_heads=6, n_layers=2, max_seq_len=48, bos_token_id=1, eos_token_id=1
    ),
}


def random_model(config):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("e_score_correction_bias"):
                tensor.normal_(0.0, 0.05)
            elif isinstance(tensor, torch.nn.Parameter):  # zero biases and unit norms would hide a swap
                tensor.normal_(0.0 if tensor.ndim > 1 else 0.5, 0.12)
    return model.eval()


@pytest.fixture(params=CONFIGS)
def theirs(request):
    return random_model(CONFIGS[request.param]())


@pytest.fixture
def folder(theirs, tmp_path) -> Path:
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    return tmp_path / "theirs"


def ids(batch: int = 2, length: int = T) -> torch.Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", registry().variants("architecture"))
def test_a_key_that_is_missing_is_what_transformers_takes(architecture):
    theirs = transformers.AutoConfig.for_model(architecture).to_dict()
    always_there = {  # without them, shapes would not fit
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
        "n_embd", "n_layer", "n_head", "d_model", "n_layers", "n_heads",
    }  # fmt: skip
    few = {key: value for key, value in theirs.items() if key in always_there} | {"model_type": architecture}
    read = [experiment_of(Config(data, "config.json"), registry(), name="a") for data in (few, theirs)]
    assert layers_of(read[0]) == layers_of(read[1])


def test_logits_and_gradients_are_transformers(theirs, folder, tmp_path):
    ours, tokens = load_pretrained(folder), ids()
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    expected, (logits, _) = theirs(tokens).logits, ours(tokens)
    assert_rounded(logits, expected, *sums_of(ours))
    for result in (logits, expected):
        F.cross_entropy(result[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    family = family_of(WeightsFolder(folder).config, registry())
    with torch.no_grad():
        for parameter in (*ours.parameters(), *theirs.parameters()):
            parameter.copy_(parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")  # under the names of tensors in files, experts one by one
    gradients = {pair.theirs: pair.joined() for pair in pairs(family, ours)}
    expected = dict(WeightsFolder(tmp_path / "gradients").read(gradients))
    assert expected.keys() == gradients.keys()
    of_parameters = {name: each for name, each in expected.items() if not name.endswith("e_score_correction_bias")}
    gradients = {name: gradients[name] for name in of_parameters}
    assert_gradients_rounded(gradients, of_parameters, *sums_of(ours, tokens=tokens.numel()))


def test_greedy_text_is_transformers(theirs, folder):
    ours, prompt = load_pretrained(folder), ids(2, 8)
    with torch.no_grad():
        written = torch.stack(list(generate_ids(ours, prompt, 20, Sampling(temperature=0))), 1)
        tokens = prompt
        for step in range(20):  # theirs decides, as long as it is sure
            logits = theirs(tokens).logits[:, -1]
            best = logits.topk(2)
            sure = best.values[:, 0] - best.values[:, 1] > rounding(torch.float32, *sums_of(ours)) * logits.abs().max()
            assert torch.equal(written[sure, step], best.indices[sure, 0])
            tokens = torch.cat([tokens, written[:, step : step + 1]], 1)


def test_in_and_out_again_is_the_same_bits(theirs, folder, tmp_path):
    loaded = load(folder)
    kind = theirs.config.model_type
    export(loaded.config, loaded.tokenizer, loaded.model, tmp_path / "out", architecture=kind, max_shard_bytes=60_000)
    before, after = WeightsFolder(folder), WeightsFolder(tmp_path / "out")
    assert before.shapes == after.shapes
    again = dict(after.read(after.shapes))
    assert all(torch.equal(tensor, again[name]) for name, tensor in before.read(before.shapes))
    shards = list((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 1
    for shard in shards:  # without which transformers before 5 reads none
        with safe_open(shard, "pt") as file:
            assert file.metadata() == {"format": "pt"}
    written = Config(json.loads((tmp_path / "out" / "config.json").read_text()), "config.json")
    only = [entry for entry in family_of(written, registry()).keys if isinstance(entry, Only)]
    assert all(written.get(entry.theirs, None) == entry.values[0] for entry in only)  # others than us look for some
    sizes = [json.loads((path / INDEX).read_text())["metadata"]["total_size"] for path in (folder, tmp_path / "out")]
    assert sizes[0] == sizes[1]
    family = family_of(written, registry())
    for wrong in (family.weights[1:], (*family.weights, family.weights[0])):  # of which one is missing, or read twice
        with pytest.raises(InvalidData, match="its table of weights does not cover"):
            pairs(replace(family, weights=wrong), loaded.model)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(again) is type(theirs)
    with torch.no_grad():
        assert torch.equal(again.eval()(ids()).logits, theirs(ids()).logits)
        again.set_attn_implementation("eager")  # reads keys of config.json that fused attention does not
        assert_rounded(again(ids()).logits, theirs(ids()).logits, *sums_of(theirs))
