"""A key of config.json that changes what transformers computes is read, or refused by its name; never left out."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json
from pathlib import Path

import pytest
import torch

from foundry.core.contracts import InvalidData
from foundry.core.registry import registry
from foundry.core.testing import assert_rounded, sums_of
from foundry.zoo import Family, load_pretrained

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

from huggingface_hub.errors import StrictDataclassError  # noqa: E402

VOCAB, T = 67, 40
DECODER = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 48, "rms_norm_eps": 1e-5, "rope_theta": 333.0,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 8, "n_group": 4, "topk_group": 2,
    "num_experts_per_tok": 3, "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 12, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 12,
}  # fmt: skip
MODELS: dict[str, dict] = {
    "llama": DECODER,
    "mistral": {**DECODER, "sliding_window": 8},
    "qwen2": {**DECODER, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": {**DECODER, "head_dim": 16},
    "olmo2": DECODER,
    "phi3": {**DECODER, "sliding_window": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    "mixtral": {**DECODER, "num_local_experts": 4},
    "deepseek_v3": {**DECODER, **LATENT},
    "gpt2": {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48},
    "mpt": {"vocab_size": VOCAB, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 48},
}
NULLS = {  # of keys that may be null, and files have them so
    "llama": {"num_key_value_heads", "head_dim", "rope_scaling"},
    "mistral": {"sliding_window", "head_dim", "rope_scaling"},
    "qwen2": {"num_key_value_heads", "sliding_window", "rope_scaling"},
    "phi3": {"num_key_value_heads", "sliding_window", "rope_scaling"},
    "deepseek_v3": {"q_lora_rank", "norm_topk_prob", "num_key_value_heads", "rope_scaling"},
    "gpt2": {"n_inner"},
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROTATING = (
    {"rope_theta": 77.0},
    {"partial_rotary_factor": 0.5},
    {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    {"rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
    {"rope_scaling": YARN},
    {"rope_scaling": {**YARN, "attention_factor": 1.3}},
    {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    {"rope_scaling": {**YARN, "truncate": False}},
    {"rope_scaling": LLAMA3, "original_max_position_embeddings": 12},
    {"rope_scaling": YARN, "original_max_position_embeddings": 200},  # far from YARN's own, which rounds
    {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50.0}},
    {"is_causal": False},
    {"rms_norm_eps": 0.5},
    {"hidden_act": "gelu"},
    {"hidden_act": "swish"},
    {"head_dim": 12},
    {"hidden_act": "relu"},
    {"attention_bias": True},
    {"tie_word_embeddings": True},
    {"layer_types": ["sliding_attention", "full_attention"]},
    {"sliding_window": 5},
    {"sliding_window": None},
)
CHANGES = {
    "llama": (
        *ROTATING, {"attention_bias": True, "mlp_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu_new"},
        {"hidden_act": "gelu_pytorch_tanh"}, {"hidden_act": "sigmoid"},
    ),
    "mistral": ROTATING,
    "qwen2": (*ROTATING, {"use_sliding_window": False}, {"max_window_layers": 0}, {"max_window_layers": 2}),
    "qwen3": (*ROTATING, {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0}),
    "olmo2": ROTATING,
    "phi3": (
        *ROTATING, {"rope_scaling": {"type": "su", "short_factor": [1.5] * 4, "long_factor": [2.5] * 4}},
        {"num_key_value_heads": None},
    ),
    "mixtral": (*ROTATING, {"num_experts_per_tok": 3}, {"num_experts_per_tok": 1}, {"router_jitter_noise": 0.3}),
    "deepseek_v3": (
        *ROTATING, {"norm_topk_prob": False}, {"routed_scaling_factor": 3.3}, {"topk_group": 3}, {"n_group": 2},
        {"first_k_dense_replace": 0}, {"first_k_dense_replace": 2}, {"n_shared_experts": 2}, {"q_lora_rank": None},
        {"rope_interleave": False},
    ),
    "gpt2": (
        {"n_inner": 20}, {"layer_norm_epsilon": 0.5}, {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False}, {"reorder_and_upcast_attn": True}, {"activation_function": "relu"},
        {"activation_function": "gelu_fast"}, {"activation_function": "gelu"}, {"activation_function": "silu"},
        {"activation_function": "gelu_pytorch_tanh"}, {"activation_function": "relu2"},
        {"tie_word_embeddings": False}, {"add_cross_attention": True},
        {"num_attention_heads": 2}, {"is_causal": False},
    ),
    "mpt": (
        {"attn_config": {"alibi_bias_max": 4}}, {"attn_config": {"clip_qkv": 0.1}}, {"attn_config": {"qk_ln": True}},
        {"attn_config": {"softmax_scale": 0.9}}, {"expansion_ratio": 2}, {"layer_norm_epsilon": 0.5}, {"n_heads": 8},
        {"logit_scale": 3.0}, {"no_bias": False}, {"tie_word_embeddings": False}, {"num_attention_heads": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("model_type", CHANGES)
def test_a_key_is_read_or_refused_by_its_name(model_type, tmp_path):
    read = 0
    for number, change in enumerate(CHANGES[model_type]):
        folder = tmp_path / str(number)
        expected = saved({"model_type": model_type, **MODELS[model_type], **change}, folder)
        if expected is None:
            continue  # transformers has no such model
        try:
            ours = load_pretrained(folder)
            logits, _ = ours(tokens())
        except InvalidData as error:
            told = f"{error.message} {error.hint}"
            assert any(name in told for name in (*change, *inner(change), "Foundry cannot express")), told
            continue
        assert_rounded(logits, expected, *sums_of(ours))
        read += 1
    assert read >= 2


@pytest.mark.parametrize("model_type", MODELS)
def test_a_key_that_is_null_is_what_transformers_makes_of_null_or_refused(model_type, tmp_path):
    """A bool that is null is false there; a window, none; key heads, as many as heads."""
    family, read = registry().variants("architecture")[model_type].load(), set()
    for number, key in enumerate({*named_by(family), "is_causal"}):
        folder = tmp_path / str(number)
        expected = saved({"model_type": model_type, **MODELS[model_type], key: None}, folder)
        if expected is None:
            continue  # transformers refuses it
        try:
            ours = load_pretrained(folder)
            logits, _ = ours(tokens())
        except InvalidData as error:
            told = error.message
            assert f" {key}" in told
            continue
        assert_rounded(logits, expected, *sums_of(ours))
        read.add(key)
    assert "is_causal" not in read
    assert read >= NULLS.get(model_type, set())


def named_by(family: Family) -> list[str]:
    names = [name for entry in family.keys if isinstance(name := getattr(entry, "theirs", None), str)]
    rotating = ["rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"]
    windows = ["sliding_window", "use_sliding_window", "max_window_layers", "layer_types"]
    return [name for name in (*names, *rotating, *windows) if "." not in name]


def saved(config: dict, folder: Path) -> torch.Tensor | None:
    """Logits of transformers, whose random model of this config.json is in the folder; None where it has none."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    try:
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0 if parameter.ndim > 1 else 0.5, 0.15)
            model.save_pretrained(folder)
            (folder / "config.json").write_text(json.dumps(config))  # as it was given, not as transformers says it
            return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()(tokens()).logits
    except (ValueError, KeyError, RuntimeError, AttributeError, TypeError, StrictDataclassError):
        return None


def tokens() -> torch.Tensor:
    return torch.randint(3, VOCAB, (2, T), generator=torch.Generator().manual_seed(0))


def inner(change: dict) -> list[str]:
    return [name for value in change.values() if isinstance(value, dict) for name in (*value, "rope_type")]
