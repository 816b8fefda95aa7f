"""How a parameter of ours looks as the tensor that it is of theirs: which shape it has there, and in which order its
rows stand. Copying through these, either way, moves bits and computes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

View = Callable[[Tensor, int], Tensor]
"""(parameter, number of the expert) -> a view of it."""

Order = Callable[[Any], Tensor]
"""Layer -> for each row of theirs, the number of the row of ours that it is."""


def whole(parameter: Tensor, expert: int) -> Tensor:
    return parameter


def transposed(parameter: Tensor, expert: int) -> Tensor:
    """(out, in) -> (in, out), as GPT-2's Conv1D has it."""
    return parameter.T


def of_expert(parameter: Tensor, expert: int) -> Tensor:
    """(E, out, in) -> (out, in), of one expert."""
    return parameter[expert]


def of_rotated_queries(block: Any) -> Tensor:
    """Of each head's query [without position ; rotated], the rotated rows: neighbours are pairs there, halves here."""
    attention = block.attention
    rows = torch.arange(attention.n_head * (attention.nope + attention.rope)).view(attention.n_head, -1)
    plain, rotated = rows.split((attention.nope, attention.rope), dim=1)
    return torch.cat((plain, _neighbours(rotated)), dim=1).flatten()


def of_rotated_key(block: Any) -> Tensor:
    """The same of [latent ; rotated key]."""
    attention = block.attention
    plain, rotated = torch.arange(attention.rank + attention.rope).split((attention.rank, attention.rope))
    return torch.cat((plain, _neighbours(rotated)))


def _neighbours(halves: Tensor) -> Tensor:
    """(..., D): a_1 a_2 ... b_1 b_2 ... -> a_1 b_1 a_2 b_2 ..."""
    return halves.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


VIEWS: dict[str, View] = {"whole": whole, "transposed": transposed, "of_expert": of_expert}
ORDERS: dict[str, Order] = {"of_rotated_queries": of_rotated_queries, "of_rotated_key": of_rotated_key}
