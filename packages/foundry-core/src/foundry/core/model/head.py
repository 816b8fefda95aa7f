"""From hidden states to logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from foundry.core.contracts import Role
from foundry.core.kernels import linear_product


class Head(nn.Module):
    """Hidden states (..., C) -> logits (..., V)."""

    roles: ClassVar[Mapping[str, Role]] = {"weight": "head"}

    def __init__(self, n_embd: int, vocab_size: int, softcap: float | None) -> None:
        super().__init__()
        self.product = linear_product()
        self.softcap = softcap  # Gemma 2 (arXiv:2408.00118): logits stay within +-softcap
        self.weight = nn.Parameter(torch.empty(vocab_size, n_embd))

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.product(hidden, self.weight)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class TiedHead(Head):
    """A head that reads the embedding's weight instead of owning one."""

    def __init__(self, embedding: nn.Embedding, softcap: float | None) -> None:
        nn.Module.__init__(self)
        self.product = linear_product()
        self.softcap = softcap
        self._embedding = (embedding,)  # in a tuple it is no child: the weight keeps one name and one owner

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self._embedding[0].weight
