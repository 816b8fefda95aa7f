"""A shuffle that is computed, not stored: the i-th element of a keyed permutation, in O(1) memory."""

from __future__ import annotations

import hashlib

import numpy as np

ROUNDS = 8


def permute(indices: np.ndarray, size: int, key: str) -> np.ndarray:
    """Where a pseudo-random permutation of 0..size-1, chosen by `key`, sends `indices`.

    A balanced Feistel network permutes the smallest 4^h >= size; what falls outside walks on along its cycle until it
    is inside again, fewer than 4 steps on average (Black and Rogaway, 2002).

    Args:
        indices: (N,) integers in 0..size-1.
    Returns:
        (N,) int64.
    """
    half_bits = max(2, ((size - 1).bit_length() + 1) // 2)  # 2 at least: on fewer bits, few permutations are reached
    keys = np.frombuffer(hashlib.shake_256(key.encode()).digest(8 * ROUNDS), dtype="<u8")
    values = _feistel(np.asarray(indices, dtype=np.uint64), half_bits, keys)
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], half_bits, keys)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half_bits: int, keys: np.ndarray) -> np.ndarray:
    bits = np.uint64(half_bits)
    mask = np.uint64(2**half_bits - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << bits) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """Every input bit moves every output bit (the finalizer of SplitMix64; Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
