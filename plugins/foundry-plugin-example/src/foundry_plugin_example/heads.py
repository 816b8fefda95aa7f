"""The mutation type `heads`: another number of heads, everything else as it was."""

from collections.abc import Mapping
from typing import Any

from foundry.core.contracts import Edits


def change_heads(experiment: Mapping[str, Any], value: str) -> Edits:
    """n_head = `value`; n_embd and the share of key-value heads stay, so the heads become wider or narrower.

    Raises:
        ValueError: not a number of heads that divides the width and keeps that share whole.
    """
    model = experiment["model_args"]
    heads = model["n_head"]
    width = heads * (model["head_dim"] or model["n_embd"] // heads)  # of all heads together
    kv_heads = model["attention"].get("n_kv_head") or heads

    def fits(count: int) -> bool:
        # An even head width, for positions that rotate pairs.
        return width % (2 * count) == 0 and count * kv_heads % heads == 0

    if not value.isdecimal() or int(value) == 0 or not fits(int(value)):
        valid = [count for count in range(1, width // 2 + 1) if fits(count)]
        raise ValueError(f"{value!r} heads do not fit: use one of {', '.join(map(str, valid))}")
    count = int(value)
    edits: dict[str, Any] = {"model_args.n_head": count}
    if model["head_dim"] is not None:
        edits["model_args.head_dim"] = width // count
    if model["attention"].get("n_kv_head") is not None:
        edits["model_args.attention.n_kv_head"] = count * kv_heads // heads
    return edits
