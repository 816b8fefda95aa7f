"""Llama (arXiv:2302.13971, 2307.09288, 2407.21783): grouped-query attention, rope (Llama 3.1 and later: with `llama3`
scaling), RMS norms, SwiGLU."""

from foundry.core.contracts.architecture import Family, Key, Only
from foundry.zoo.families import decoder
from foundry.zoo.rope import Rope

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    args=decoder.ARGS,
    keys=(
        *decoder.sizes(),
        decoder.KV_HEADS,
        decoder.HEAD_DIM,
        decoder.DENSE,
        decoder.ACTIVATION,
        Rope(),
        Key("attention_bias", "bias", False),
        Key("mlp_bias", "bias", False),
        Only("pretraining_tp", (1, 2, 4, 8)),  # how it was trained: the same sums in another order
    ),
    weights=decoder.WEIGHTS,
)
