"""Sliding windows in config.json: of all layers, as Mistral has it, or of some, as Qwen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foundry.core.contracts.architecture import Config, Flat, Reading

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Window:
    """`sliding_window` of every layer; null is none. Comes after the keys of the rest of the attention."""

    default: int | None = None  # what transformers takes where the key is missing

    def read(self, config: Config, reading: Reading) -> None:
        window = config.get("sliding_window", self.default, null=None)
        if window is not None:
            reading.args |= {"attention.type": "sliding_window", "attention.window": window}

    def write(self, layers: Sequence[Flat], config: dict[str, Any]) -> None:
        config["sliding_window"] = layers[0].get("attention.window")


@dataclass(frozen=True)
class WindowOfLayers:
    """`use_sliding_window`, and where: `layer_types`, or all from `max_window_layers` on. Comes after the keys of the
    rest of the attention."""

    def read(self, config: Config, reading: Reading) -> None:
        n_layer = config.get("num_hidden_layers")
        window = config.get("sliding_window", 4096, null=None) if config.get("use_sliding_window", False) else None
        first = n_layer if window is None else config.get("max_window_layers", 28)
        types = config.get("layer_types", None) or [SLIDING if i >= first else FULL for i in range(n_layer)]
        if len(types) != n_layer or not set(types) <= {SLIDING, FULL}:
            raise config.refuse("layer_types", types, f"needs {SLIDING} or {FULL} for each of {n_layer} layers")
        if window is None and SLIDING in types:
            raise config.refuse("layer_types", types, "there is no window: use_sliding_window or sliding_window is off")
        sliding = [str(i) for i, kind in enumerate(types) if kind == SLIDING]
        window = {"attention.type": "sliding_window", "attention.window": window}
        attention = {path: value for path, value in reading.args.items() if path.startswith("attention.")}
        if len(sliding) == n_layer:
            reading.args |= window
        elif sliding:
            reading.layers[",".join(sliding)] = attention | window

    def write(self, layers: Sequence[Flat], config: dict[str, Any]) -> None:
        windows = [flat.get("attention.window") for flat in layers]
        config["use_sliding_window"] = any(windows)
        config["sliding_window"] = next(filter(None, windows), None)
        config["layer_types"] = [SLIDING if window else FULL for window in windows]
        config["max_window_layers"] = next((i for i, window in enumerate(windows) if window), len(windows))
