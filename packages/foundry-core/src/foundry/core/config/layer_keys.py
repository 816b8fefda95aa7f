"""The keys of `layers:`: `3`, `0-3`, `2-`, `0,2,4-`, and `SSSL/S`: those marked S where the pattern SSSL repeats."""

from __future__ import annotations

import re

_SPAN = re.compile(r"(\d{1,9})(?:(-)(\d{1,9})?)?")
_PATTERN = re.compile(r"([A-Z]{1,10000})/([A-Z])")


def parse_layers(key: str, n_layer: int) -> list[int]:
    """The layers, numbered from 0, that a key names.

    Raises:
        ValueError: it is no such key, or names a layer that the model does not have.
    """
    layers: list[int] = []
    for part in key.split(","):
        more = _pattern(part.strip(), n_layer) if "/" in part else _span(part.strip(), n_layer, key)
        if twice := set(layers).intersection(more):
            raise ValueError(f"names layer {min(twice)} twice")
        layers += more
    return layers


def _span(part: str, n_layer: int, key: str) -> range:
    match = _SPAN.fullmatch(part)
    if not match:
        raise ValueError(
            f"{key!r} names no layers; write N, N-M, N-, several with commas, such as 0,2-3, or a pattern and one of "
            "its letters, such as SSSL/S"
        )
    first = int(match[1])
    last = first if not match[2] else int(match[3]) if match[3] else max(first, n_layer - 1)
    if last < first:
        raise ValueError(f"{part} runs backwards; write {last}-{first}")
    if last >= n_layer:
        raise ValueError(f"there is no layer {last}; n_layer {n_layer} has layers 0 to {n_layer - 1}")
    return range(first, last + 1)


def _pattern(part: str, n_layer: int) -> list[int]:
    match = _PATTERN.fullmatch(part)
    if not match or match[2] not in match[1]:
        raise ValueError(f"{part!r} is not a pattern and one of its letters, such as SSSL/S")
    layers = [layer for layer in range(n_layer) if match[1][layer % len(match[1])] == match[2]]
    if not layers:
        first = match[1].index(match[2])
        raise ValueError(f"{part} begins with layer {first}; n_layer {n_layer} has layers 0 to {n_layer - 1}")
    return layers
