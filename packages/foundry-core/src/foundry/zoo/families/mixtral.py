"""Mixtral (arXiv:2401.04088): Llama with a mixture of experts in every layer. Each expert is a tensor of its own, where
ours are one for all."""

from foundry.core.contracts.architecture import Family, Key, Only, WeightMap, same
from foundry.zoo.families import decoder
from foundry.zoo.rope import Rope
from foundry.zoo.window import Window

_AT, _OURS = "model.layers.{layer}.block_sparse_moe", "blocks.{layer}.ffn"

MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    args={**decoder.ARGS, "ffn.type": "moe", "ffn.scoring": "softmax", "ffn.normalize_top_k": True},
    keys=(
        *decoder.sizes(131_072, 1e-5),
        decoder.kv_heads(8),
        decoder.HEAD_DIM,
        decoder.DENSE,
        Key("num_local_experts", "ffn.n_experts", 8),
        Key("num_experts_per_tok", "ffn.top_k", 2),
        decoder.ACTIVATION,
        Rope(theta=1e6),
        Only("router_jitter_noise", (0.0, 0)),
        Window(),
    ),
    weights=(
        *decoder.ENDS,
        *decoder.ATTENTION,
        *decoder.PRE_NORM,
        *same({f"{_AT}.gate.weight": f"{_OURS}.gate.weight"}),
        *(
            WeightMap(f"{_AT}.experts.{{expert}}.{theirs}.weight", (f"{_OURS}.experts.{ours}.weight",), "of_expert")
            for theirs, ours in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj"))
        ),
    ),
)
