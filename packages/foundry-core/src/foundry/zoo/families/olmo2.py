"""OLMo 2 (arXiv:2501.00656): norms after the sublayers and none before, and an RMS norm over all heads of queries and
of keys."""

from foundry.core.contracts.architecture import Family, Key, Only, same
from foundry.zoo.families import decoder
from foundry.zoo.rope import Rope

_AT, _OURS = "model.layers.{layer}", "blocks.{layer}"

OLMO2 = Family(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    args={
        **decoder.ARGS,
        "residual.type": "post",
        "attention.qk_norm": True,
        "attention.qk_norm_over": "all_heads",
    },
    keys=(
        *decoder.sizes(norm_eps=1e-5),
        decoder.KV_HEADS,
        decoder.HEAD_DIM,
        Key("rms_norm_eps", "attention.qk_norm_eps", 1e-5),
        decoder.DENSE,
        decoder.ACTIVATION,
        Rope(),
        Only("attention_bias", (False,)),
    ),
    weights=(
        *decoder.ENDS,
        *decoder.ATTENTION,
        *decoder.QK_NORM,
        *decoder.FFN,
        *same(
            {
                f"{_AT}.post_attention_layernorm.weight": f"{_OURS}.attention_norm.weight",
                f"{_AT}.post_feedforward_layernorm.weight": f"{_OURS}.ffn_norm.weight",
            }
        ),
    ),
)
