"""Rotary positions in config.json, which has two ways of saying them: `rope_theta` and `rope_scaling` (transformers
before 5), or `rope_parameters`, which holds both. Either is read; both are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foundry.core.contracts.architecture import Config, Flat, Reading

PLAIN = "default"  # what transformers calls a rope without scaling
KINDS = ("linear", "llama3", "yarn")
ORIGINAL, OURS = "original_max_position_embeddings", "original_block_size"


@dataclass(frozen=True)
class Rope:
    """The keys of rotary positions; `theta` is what transformers takes where config.json says nothing."""

    theta: float = 10_000.0
    partial: bool = False  # whether the architecture rotates only `partial_rotary_factor` of each head

    def read(self, config: Config, reading: Reading) -> None:
        # transformers takes `rope_scaling` where there are both.
        given: dict[str, Any] = dict(config.get("rope_scaling", None) or config.get("rope_parameters", None) or {})
        if any(isinstance(value, dict) for value in given.values()):
            raise config.refuse("rope_parameters", given, "Foundry's rope is one for all layers")
        legacy = given.pop("type", None)
        kind = given.pop("rope_type", None) or legacy or PLAIN
        theta, fraction = (
            config.get(key, default) if (value := given.pop(key, None)) is None else value
            for key, default in (("rope_theta", self.theta), ("partial_rotary_factor", 1.0))
        )
        reading.set(config, "rope_theta", "position.theta", float(theta))
        if fraction != 1.0:
            if not self.partial:
                raise config.refuse("partial_rotary_factor", fraction, "this architecture rotates whole heads")
            reading.set(config, "partial_rotary_factor", "position.fraction", fraction)
        if kind == PLAIN:
            return  # transformers reads nothing else then
        if kind not in KINDS:
            raise config.refuse("rope_parameters.rope_type", kind, f"Foundry's rope scales by {', '.join(KINDS)}")
        original = given.pop(ORIGINAL, None)
        if kind != "linear":
            original = config.get(ORIGINAL, original)  # beside max_position_embeddings it counts more than within
            given[OURS] = config.get("max_position_embeddings") if original is None else original
        reading.set(config, "rope_scaling", "position.scaling", {"type": kind, **given})

    def write(self, layers: Sequence[Flat], config: dict[str, Any]) -> None:
        flat = layers[0]
        theta, fraction = flat.get("position.theta", self.theta), flat.get("position.fraction", 1.0)
        scaling = {key: value for key, value in (flat.get("position.scaling") or {}).items() if value is not None}
        kind = scaling.pop("type", PLAIN)
        if original := scaling.pop(OURS, None):
            scaling[ORIGINAL] = original
        if self.partial and fraction != 1.0:
            scaling["partial_rotary_factor"] = config["partial_rotary_factor"] = fraction
        if kind != PLAIN:
            config["rope_scaling"] = {"rope_type": kind, **scaling}
        config["rope_theta"] = theta
        config["rope_parameters"] = {"rope_type": kind, "rope_theta": theta, **scaling}
