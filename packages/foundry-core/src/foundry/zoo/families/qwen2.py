"""Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama with biases on queries, keys and values."""

from foundry.core.contracts.architecture import Family
from foundry.zoo.families import decoder
from foundry.zoo.rope import Rope
from foundry.zoo.window import WindowOfLayers

QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    args={**decoder.ARGS, "attention.qkv_bias": True},
    keys=(
        *decoder.sizes(32_768),
        decoder.kv_heads(32),
        decoder.HEAD_DIM,
        decoder.DENSE,
        decoder.ACTIVATION,
        Rope(),
        WindowOfLayers(),
    ),
    weights=decoder.WEIGHTS,
)
