"""The memory of an attention that keeps something of every token."""

import torch
from torch import Tensor

from foundry.core.contracts import UsageError


class TokenCache:
    """Tensors with a place for each token so far, in storage for `max_len` of them, allocated once.

    Args:
        storage: each (B, ..., max_len, size), of which the first `length` places are filled.
    """

    def __init__(self, *storage: Tensor) -> None:
        self.tensors = storage
        self.length = 0

    @property
    def max_len(self) -> int:
        return self.tensors[0].size(-2)

    def extend(self, *new: Tensor, real: Tensor | None = None) -> tuple[Tensor, ...]:
        """Append T tokens, each tensor (B, ..., T, size).

        Args:
            real: (B, length + T) bool, False = padding, for a cache that forgets; None: there is none.

        Returns:
            Of each tensor the last tokens so far, (B, ..., S, size): here all of them, S = length.

        Raises:
            UsageError: the cache is full.
        """
        start, stop = self.length, self.length_with(new[0].size(-2))
        self.length = stop
        for storage, tokens in zip(self.tensors, new, strict=True):
            storage[..., start:stop, :] = tokens
        return tuple(storage[..., :stop, :] for storage in self.tensors)

    def length_with(self, n_new: int) -> int:
        """Raises UsageError if there is no place for so many more."""
        length = self.length + n_new
        if length > self.max_len:
            raise UsageError(
                f"the cache holds {self.max_len} tokens, {length} are needed", "make it with a larger max_len"
            )
        return length


class KVCache(TokenCache):
    """Keys and values, both (B, H_kv, max_len, D)."""

    def __init__(
        self, batch: int, n_kv_head: int, max_len: int, head_dim: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        keys = torch.zeros(batch, n_kv_head, max_len, head_dim, dtype=dtype, device=device)
        super().__init__(keys, torch.zeros_like(keys))
