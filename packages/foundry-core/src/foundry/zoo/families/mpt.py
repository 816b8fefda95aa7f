"""MPT (MosaicML, 2023): ALiBi, LayerNorm without biases, GELU, queries, keys and values in one projection. transformers
always multiplies the width by 4 and always uses ALiBi, whatever config.json says."""

from foundry.core.contracts.architecture import Family, Key, Only, WeightMap, same

_AT, _OURS = "transformer.blocks.{layer}", "blocks.{layer}"

MPT = Family(
    model_type="mpt",
    architecture="MptForCausalLM",
    args={
        "attention.type": "gqa",
        "ffn.type": "dense",
        "ffn.hidden": None,  # 4 n_embd
        "norm.type": "layernorm",
        "activation.type": "gelu",
        "activation.approximate": "none",
        "position.type": "alibi",
        "bias": False,
    },
    keys=(
        Key("d_model", "n_embd"),
        Key("n_layers", "n_layer"),
        Key("n_heads", "attention.n_kv_head"),
        Key("n_heads", "n_head"),
        Key("num_attention_heads", "n_head", like="n_heads"),  # transformers' other name for it
        Key("max_seq_len", "block_size", 2048),
        Key("layer_norm_epsilon", "norm.eps", 1e-5),
        Key("tie_word_embeddings", "tie_embeddings", True),
        Only("no_bias", (True,)),
        Only("expansion_ratio", (4,)),
        Only("attn_config.attn_type", ("multihead_attention",)),
        Only("attn_config.alibi", (True,)),
        Only("attn_config.alibi_bias_max", (8,)),
        Only("attn_config.qk_ln", (False,)),
        Only("attn_config.prefix_lm", (False,)),
        Only("attn_config.clip_qkv", (None,)),
        Only("attn_config.softmax_scale", (None,)),
        Only("logit_scale", (None,)),
    ),
    weights=(
        *same(
            {
                "transformer.wte.weight": "embed.weight",
                "transformer.norm_f.weight": "norm.weight",
                "lm_head.weight": "head.weight",
                f"{_AT}.norm_1.weight": f"{_OURS}.attention_norm.weight",
                f"{_AT}.norm_2.weight": f"{_OURS}.ffn_norm.weight",
                f"{_AT}.attn.out_proj.weight": f"{_OURS}.attention.o_proj.weight",
                f"{_AT}.ffn.up_proj.weight": f"{_OURS}.ffn.up_proj.weight",
                f"{_AT}.ffn.down_proj.weight": f"{_OURS}.ffn.down_proj.weight",
            }
        ),
        WeightMap(f"{_AT}.attn.Wqkv.weight", tuple(f"{_OURS}.attention.{x}_proj.weight" for x in "qkv")),
    ),
    layers=_AT,
    norm="transformer.norm_f",
    prefix="transformer.",
)
