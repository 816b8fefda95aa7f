"""The memory of an attention that looks back no further than a window."""

import torch
from torch import Tensor

from foundry.modules.attention.cache import TokenCache


class WindowCache(TokenCache):
    """Of each token so far, those that the next one can see, and room for an eighth of a window more: when it is full,
    the last W - 1 move to its front, so a token costs the moving of 8 others.

    Args:
        window: W, in tokens that are not padding.
        max_len: how many tokens may be appended in all.
        storage: as in `TokenCache`, with `places(window, max_len)` for tokens.
    """

    def __init__(self, window: int, max_len: int, *storage: Tensor) -> None:
        super().__init__(*storage)
        self.window, self._max_len = window, max_len
        self.kept = 0  # places that are filled, by the last of the `length` tokens

    @staticmethod
    def places(window: int, max_len: int) -> int:
        return min(max_len, window - 1 + max(window // 8, 16))

    @property
    def max_len(self) -> int:
        return self._max_len

    def extend(self, *new: Tensor, real: Tensor | None = None) -> tuple[Tensor, ...]:
        n_new = new[0].size(-2)
        before, self.length = self.length, self.length_with(n_new)
        if self.kept + n_new > self.tensors[0].size(-2):
            self._keep(self._seen(before, real), self.tensors)
        if self.kept + n_new > self.tensors[0].size(-2):  # a prompt: it is looked at whole, and its end is kept
            tokens = tuple(
                torch.cat((old[..., : self.kept, :], more), dim=-2) for old, more in zip(self.tensors, new, strict=True)
            )
            self.kept = tokens[0].size(-2)
            self._keep(self._seen(self.length, real), tokens)
            return tokens
        for storage, more in zip(self.tensors, new, strict=True):
            storage[..., self.kept : self.kept + n_new, :] = more
        self.kept += n_new
        return tuple(storage[..., : self.kept, :] for storage in self.tensors)

    def _seen(self, length: int, real: Tensor | None) -> int:
        """How many of the last of `length` tokens the next one may see: W - 1 that are real, and what lies between."""
        if real is None:
            return min(self.window - 1, self.kept)
        counted = real[:, :length].flip(-1).cumsum(-1)
        return min(int((counted < self.window - 1).sum(-1).max()) + 1, self.kept)

    def _keep(self, n: int, source: tuple[Tensor, ...]) -> None:
        """The last n of the tokens that fill `source` move to the front of the storage, which grows if it must."""
        last = slice(self.kept - n, self.kept)
        if n > self.tensors[0].size(-2):
            self.tensors = tuple(tokens[..., last, :].clone() for tokens in source)
        else:
            for storage, tokens in zip(self.tensors, source, strict=True):
                storage[..., :n, :] = tokens[..., last, :].clone()  # the two may overlap
        self.kept = n
