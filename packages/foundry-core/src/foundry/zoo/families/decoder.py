"""What Llama and all that were made after it share: the names in config.json, and the names of tensors."""

from dataclasses import replace

from foundry.core.contracts.architecture import Choice, Entry, Flat, Key, Only, WeightMap, same


def sizes(block_size: int = 2048, norm_eps: float = 1e-6) -> tuple[Entry, ...]:
    """The keys of a model's sizes. What transformers takes where config.json lacks these two, each family says."""
    return (
        Key("hidden_size", "n_embd"),
        Key("num_hidden_layers", "n_layer"),
        Key("num_attention_heads", "n_head"),
        Key("max_position_embeddings", "block_size", block_size),
        Key("tie_word_embeddings", "tie_embeddings", False),
        Key("rms_norm_eps", "norm.eps", norm_eps),
        Only("attention_dropout", (0.0, 0)),
    )


KV_HEADS = Key("num_key_value_heads", "attention.n_kv_head", like="num_attention_heads")


def kv_heads(default: int) -> Key:
    """Where transformers has a number of its own for a key that is missing; null is a key head for each query head."""
    return replace(KV_HEADS, default=default)


HEAD_DIM = Key("head_dim", "head_dim", None)

DENSE = Key("intermediate_size", "ffn.hidden")

GATED: dict[str, Flat] = {
    "silu": {"activation.type": "swiglu"},
    "swish": {"activation.type": "swiglu"},
    "gelu": {"activation.type": "geglu", "activation.approximate": "none"},
    "gelu_pytorch_tanh": {"activation.type": "geglu", "activation.approximate": "tanh"},
    "gelu_new": {"activation.type": "geglu", "activation.approximate": "tanh"},
    "sigmoid": {"activation.type": "glu"},
}
ACTIVATION = Choice("hidden_act", GATED, "silu")

ARGS: Flat = {
    "attention.type": "gqa",
    "ffn.type": "dense",
    "norm.type": "rmsnorm",
    "position.type": "rope",
    "bias": False,
}

_AT, _OURS = "model.layers.{layer}", "blocks.{layer}"

ENDS = same(
    {
        "model.embed_tokens.weight": "embed.weight",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": "head.weight",
    }
)

ATTENTION: tuple[WeightMap, ...] = tuple(
    WeightMap(f"{_AT}.self_attn.{name}_proj.{kind}", (f"{_OURS}.attention.{name}_proj.{kind}",))
    for name in "qkvo"
    for kind in ("weight", "bias")
)

QK_NORM = same({f"{_AT}.self_attn.{x}_norm.weight": f"{_OURS}.attention.{x}_norm.weight" for x in "qk"})

FFN: tuple[WeightMap, ...] = tuple(
    WeightMap(f"{_AT}.mlp.{name}_proj.{kind}", (f"{_OURS}.ffn.{name}_proj.{kind}",))
    for name in ("gate", "up", "down")
    for kind in ("weight", "bias")
)

PRE_NORM = same(
    {
        f"{_AT}.input_layernorm.weight": f"{_OURS}.attention_norm.weight",
        f"{_AT}.post_attention_layernorm.weight": f"{_OURS}.ffn_norm.weight",
    }
)

WEIGHTS = (*ENDS, *ATTENTION, *FFN, *PRE_NORM)
