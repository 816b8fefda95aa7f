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

    def extend(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Append T tokens, each tensor (B, ..., T, size); return views of all so far, (B, ..., length, size).

        Raises:
            UsageError: the cache is full.
        """
        start, stop = self.length, self.length + new[0].size(-2)
        if stop > self.max_len:
            raise UsageError(
                f"the cache holds {self.max_len} tokens, {stop} are needed", "make it with a larger max_len"
            )
        self.length = stop
        for storage, tokens in zip(self.tensors, new, strict=True):
            storage[..., start:stop, :] = tokens
        return tuple(storage[..., :stop, :] for storage in self.tensors)


class KVCache(TokenCache):
    """Keys and values, both (B, H_kv, max_len, D)."""

    def __init__(
        self, batch: int, n_kv_head: int, max_len: int, head_dim: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.keys = torch.zeros(batch, n_kv_head, max_len, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        super().__init__(self.keys, self.values)
