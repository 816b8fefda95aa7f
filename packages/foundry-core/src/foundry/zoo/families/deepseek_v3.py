"""DeepSeek-V3 (arXiv:2412.19437): multi-head latent attention, and from some layer on a mixture of experts chosen
within groups, with a bias on each expert's score. Its rope pairs neighbours where ours pairs halves: the rows that are
rotated stand in another order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foundry.core.contracts.architecture import Config, Entry, Family, Flat, Key, Only, Reading, WeightMap, same
from foundry.zoo.families import decoder
from foundry.zoo.rope import Rope


@dataclass(frozen=True)
class DenseFirst:
    """The first layers have one dense network each."""

    theirs: str = "first_k_dense_replace"
    hidden: str = "intermediate_size"

    def read(self, config: Config, reading: Reading) -> None:
        count = config.get(self.theirs, 3)
        if count:
            key = "0" if count == 1 else f"0-{min(count, config.get('num_hidden_layers')) - 1}"
            reading.layers[key] = {"ffn.type": "dense", "ffn.hidden": config.get(self.hidden)}

    def write(self, layers: Sequence[Flat], config: dict[str, Any]) -> None:
        count = next((i for i, flat in enumerate(layers) if flat["ffn.type"] != "dense"), len(layers))
        config[self.theirs] = count
        config[self.hidden] = layers[0].get("ffn.hidden") if count else 4 * layers[0]["n_embd"]  # then nobody's


_LATENT: tuple[Entry, ...] = tuple(
    Key(name, f"attention.{name}") for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
)

_ROUTED: tuple[Entry, ...] = tuple(
    Key(theirs, f"ffn.{ours}", default, at=-1)
    for theirs, ours, default in (
        ("n_routed_experts", "n_experts", 256),
        ("num_experts_per_tok", "top_k", 8),
        ("n_shared_experts", "n_shared_experts", 1),
        ("moe_intermediate_size", "hidden", 2048),
        ("n_group", "n_groups", 8),
        ("topk_group", "top_k_groups", 4),
        ("routed_scaling_factor", "routed_scaling_factor", 2.5),
    )
)

_AT, _OURS = "model.layers.{layer}", "blocks.{layer}"

DEEPSEEK_V3 = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    args={
        **decoder.ARGS,
        "attention.type": "mla",
        "ffn.type": "moe",
        "ffn.scoring": "sigmoid",
        "ffn.aux_loss": 0.0,
        "ffn.bias_update_rate": 1e-3,
    },
    keys=(
        *decoder.sizes(4096),
        Key("num_key_value_heads", "n_head", 128, like="num_attention_heads"),  # read by eager attention alone
        Key("q_lora_rank", "attention.q_lora_rank", 1536, null=None),
        *_LATENT,
        Key("head_dim", "attention.qk_rope_head_dim", like="qk_rope_head_dim"),  # what rotates, by its other name
        *_ROUTED,
        Key("norm_topk_prob", "ffn.normalize_top_k", True, null=False, at=-1),
        DenseFirst(),
        decoder.ACTIVATION,
        Rope(),
        Only("rope_interleave", (True,)),
        Only("attention_bias", (False,)),
        Only("scoring_func", ("sigmoid",)),
        Only("topk_method", ("noaux_tc",)),
    ),
    weights=(
        *decoder.ENDS,
        *decoder.PRE_NORM,
        *decoder.FFN,
        *same(
            {
                f"{_AT}.self_attn.{name}.weight": f"{_OURS}.attention.{name}.weight"
                for name in ("q_a_proj", "q_a_layernorm", "kv_a_layernorm", "kv_b_proj", "o_proj")
            }
        ),
        *(
            WeightMap(f"{_AT}.self_attn.{name}.weight", (f"{_OURS}.attention.{name}.weight",), order=order)
            for name, order in (
                ("q_proj", "of_rotated_queries"),
                ("q_b_proj", "of_rotated_queries"),
                ("kv_a_proj_with_mqa", "of_rotated_key"),
            )
        ),
        *same(
            {
                f"{_AT}.mlp.gate.weight": f"{_OURS}.ffn.gate.weight",
                f"{_AT}.mlp.gate.e_score_correction_bias": f"{_OURS}.ffn.gate.e_score_correction_bias",
            }
        ),
        *same(
            {
                f"{_AT}.mlp.shared_experts.{name}_proj.weight": f"{_OURS}.ffn.shared_experts.{name}_proj.weight"
                for name in ("gate", "up", "down")
            }
        ),
        *(
            WeightMap(
                f"{_AT}.mlp.experts.{{expert}}.{name}_proj.weight",
                (f"{_OURS}.ffn.experts.{name}_proj.weight",),
                view="of_expert",
            )
            for name in ("gate", "up", "down")
        ),
    ),
    unused=("head_dim",),
    ahead="num_nextn_predict_layers",
)
