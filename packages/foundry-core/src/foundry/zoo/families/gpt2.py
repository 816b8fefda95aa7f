"""GPT-2 (Radford et al., 2019): learned positions, LayerNorm, GELU, biases everywhere. Its projections are Conv1D,
which store (in, out), and queries, keys and values are one of them."""

from foundry.core.contracts.architecture import Choice, Family, Flat, Key, Only, WeightMap, same

_AT, _OURS = "transformer.h.{layer}", "blocks.{layer}"

PLAIN: dict[str, Flat] = {
    "gelu_new": {"activation.type": "gelu", "activation.approximate": "tanh"},
    "gelu_pytorch_tanh": {"activation.type": "gelu", "activation.approximate": "tanh"},
    "gelu_fast": {"activation.type": "gelu", "activation.approximate": "tanh"},
    "gelu": {"activation.type": "gelu", "activation.approximate": "none"},
    "relu": {"activation.type": "relu"},
    "silu": {"activation.type": "silu"},
    "relu2": {"activation.type": "relu2"},
}


def _conv1d(theirs: str, *ours: str) -> tuple[WeightMap, ...]:
    names = [f"{_OURS}.{name}" for name in ours]
    weights, biases = (tuple(f"{name}.{kind}" for name in names) for kind in ("weight", "bias"))
    return (
        WeightMap(f"{_AT}.{theirs}.weight", weights, view="transposed", dim=1),
        WeightMap(f"{_AT}.{theirs}.bias", biases),
    )


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    args={
        "attention.type": "gqa",
        "ffn.type": "dense",
        "norm.type": "layernorm",
        "position.type": "learned",
        "bias": True,
    },
    keys=(
        Key("n_embd", "n_embd"),
        Key("n_layer", "n_layer"),
        Key("n_head", "attention.n_kv_head"),
        Key("n_head", "n_head"),
        Key("num_attention_heads", "n_head", like="n_head"),  # transformers' other name for it
        Key("n_positions", "block_size", 1024),
        Key("n_inner", "ffn.hidden", None),
        Key("layer_norm_epsilon", "norm.eps", 1e-5),
        Key("tie_word_embeddings", "tie_embeddings", True),
        Choice("activation_function", PLAIN, "gelu_new"),
        Only("scale_attn_weights", (True,)),
        Only("scale_attn_by_inverse_layer_idx", (False,)),
        Only("add_cross_attention", (False,)),
    ),
    weights=(
        *same(
            {
                "transformer.wte.weight": "embed.weight",
                "transformer.wpe.weight": "position.wpe.weight",
                "transformer.ln_f.weight": "norm.weight",
                "transformer.ln_f.bias": "norm.bias",
                "lm_head.weight": "head.weight",
            }
        ),
        *same({f"{_AT}.ln_1.{kind}": f"{_OURS}.attention_norm.{kind}" for kind in ("weight", "bias")}),
        *same({f"{_AT}.ln_2.{kind}": f"{_OURS}.ffn_norm.{kind}" for kind in ("weight", "bias")}),
        *_conv1d("attn.c_attn", "attention.q_proj", "attention.k_proj", "attention.v_proj"),
        *_conv1d("attn.c_proj", "attention.o_proj"),
        *_conv1d("mlp.c_fc", "ffn.up_proj"),
        *_conv1d("mlp.c_proj", "ffn.down_proj"),
    ),
    layers=_AT,
    norm="transformer.ln_f",
    prefix="transformer.",
    ignored=("attn.bias", "attn.masked_bias"),  # causal masks that old checkpoints hold
)
