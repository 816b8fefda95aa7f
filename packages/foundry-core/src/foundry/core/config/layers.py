"""The keys of `layers:`: `3`, `0-3`, `2-`, `0,2,4-`."""

from __future__ import annotations

import re

_SPAN = re.compile(r"(\d{1,9})(?:(-)(\d{1,9})?)?")


def parse_layers(key: str, n_layer: int) -> list[int]:
    """The layers, numbered from 0, that a key names.

    Raises:
        ValueError: it is no such key, or names a layer that the model does not have.
    """
    layers: list[int] = []
    for part in key.split(","):
        match = _SPAN.fullmatch(part.strip())
        if not match:
            raise ValueError(f"{key!r} names no layers; write N, N-M, N- or several with commas, such as 0,2-3")
        first = int(match[1])
        last = first if not match[2] else int(match[3]) if match[3] else max(first, n_layer - 1)
        if last < first:
            raise ValueError(f"{part.strip()} runs backwards; write {last}-{first}")
        if last >= n_layer:
            raise ValueError(f"there is no layer {last}; n_layer {n_layer} has layers 0 to {n_layer - 1}")
        twice = set(layers).intersection(range(first, last + 1))
        if twice:
            raise ValueError(f"names layer {min(twice)} twice")
        layers += range(first, last + 1)
    return layers
