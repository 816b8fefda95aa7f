"""The memory of an attention that keeps every key and value."""

import torch
from torch import Tensor

from foundry.core.contracts import UsageError


class KVCache:
    """Keys and values of the tokens so far, in storage for `max_len` of them, allocated once.

    `keys` and `values` are (B, H_kv, max_len, D); the first `length` positions are filled.
    """

    def __init__(
        self, batch: int, n_kv_head: int, max_len: int, head_dim: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.keys = torch.zeros(batch, n_kv_head, max_len, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        return self.keys, self.values

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H_kv, T, D) keys and values; return views of all so far, (B, H_kv, length, D).

        Raises:
            UsageError: the cache is full.
        """
        start, stop, max_len = self.length, self.length + keys.size(2), self.keys.size(2)
        if stop > max_len:
            raise UsageError(f"the cache holds {max_len} tokens, {stop} are needed", "make it with a larger max_len")
        self.keys[:, :, start:stop] = keys
        self.values[:, :, start:stop] = values
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]
