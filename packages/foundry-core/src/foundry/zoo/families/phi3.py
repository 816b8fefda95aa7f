"""Phi-3 and Phi-4 (arXiv:2404.14219, 2412.08905): Llama whose queries, keys and values are one projection, and so are
gate and up. Its only scaling of rope is LongRoPE, which Foundry does not have."""

from foundry.core.contracts.architecture import Family, Only, WeightMap
from foundry.zoo.families import decoder
from foundry.zoo.rope import Rope
from foundry.zoo.window import Window

_AT, _OURS = "model.layers.{layer}", "blocks.{layer}"

PHI3 = Family(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    args=decoder.ARGS,
    keys=(
        *decoder.sizes(4096, 1e-5),
        decoder.KV_HEADS,
        decoder.HEAD_DIM,
        decoder.DENSE,
        decoder.ACTIVATION,
        Rope(partial=True),
        Only("rope_scaling", (None,)),
        Only("rope_parameters.rope_type", ("default",)),
        Only("attention_bias", (False,)),
        Only("embd_pdrop", (0.0, 0)),
        Only("resid_pdrop", (0.0, 0)),
        Window(),
    ),
    weights=(
        *decoder.ENDS,
        *decoder.PRE_NORM,
        WeightMap(f"{_AT}.self_attn.qkv_proj.weight", tuple(f"{_OURS}.attention.{x}_proj.weight" for x in "qkv")),
        WeightMap(f"{_AT}.self_attn.o_proj.weight", (f"{_OURS}.attention.o_proj.weight",)),
        WeightMap(f"{_AT}.mlp.gate_up_proj.weight", tuple(f"{_OURS}.ffn.{x}_proj.weight" for x in ("gate", "up"))),
        WeightMap(f"{_AT}.mlp.down_proj.weight", (f"{_OURS}.ffn.down_proj.weight",)),
    ),
)
