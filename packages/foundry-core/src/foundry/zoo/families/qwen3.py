"""Qwen3 (arXiv:2505.09388): Llama with an RMS norm on each head's query and key, and heads of a width of their own."""

from foundry.core.contracts.architecture import Family, Key, Only
from foundry.zoo.families import decoder
from foundry.zoo.rope import Rope
from foundry.zoo.window import WindowOfLayers

QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    args={**decoder.ARGS, "attention.qk_norm": True},
    keys=(
        *decoder.sizes(32_768),
        decoder.kv_heads(32),
        Key("rms_norm_eps", "attention.qk_norm_eps", 1e-6),
        Key("head_dim", "head_dim", 128),
        decoder.DENSE,
        decoder.ACTIVATION,
        Rope(),
        Only("attention_bias", (False,)),
        WindowOfLayers(),
    ),
    weights=(*decoder.WEIGHTS, *decoder.QK_NORM),
)
