"""The memory of an attention whose keys and values are made of one vector per token."""

import torch
from torch import Tensor

from foundry.core.contracts import UsageError


class LatentCache:
    """One vector of each token so far, in storage for `max_len` of them, allocated once.

    `latents` is (B, max_len, size); the first `length` positions are filled.
    """

    def __init__(self, batch: int, max_len: int, size: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.latents = torch.zeros(batch, max_len, size, dtype=dtype, device=device)
        self.length = 0

    @property
    def tensors(self) -> tuple[Tensor]:
        return (self.latents,)

    def extend(self, latents: Tensor) -> Tensor:
        """Append (B, T, size); return a view of all so far, (B, length, size).

        Raises:
            UsageError: the cache is full.
        """
        start, stop, max_len = self.length, self.length + latents.size(1), self.latents.size(1)
        if stop > max_len:
            raise UsageError(f"the cache holds {max_len} tokens, {stop} are needed", "make it with a larger max_len")
        self.latents[:, start:stop] = latents
        self.length = stop
        return self.latents[:, :stop]
