"""Mistral 7B (arXiv:2310.06825): Llama whose tokens see a window of those before them; from v0.2 on, all."""

from foundry.core.contracts.architecture import Family, Only
from foundry.zoo.families import decoder
from foundry.zoo.rope import Rope
from foundry.zoo.window import Window

MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    args=decoder.ARGS,
    keys=(
        *decoder.sizes(131_072),
        decoder.kv_heads(8),
        decoder.HEAD_DIM,
        decoder.DENSE,
        decoder.ACTIVATION,
        Rope(),
        Window(default=4096),
        Only("layer_types", (None,)),  # transformers takes it for another architecture
    ),
    weights=decoder.WEIGHTS,
)
