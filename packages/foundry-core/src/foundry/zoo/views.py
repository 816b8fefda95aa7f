"""How a parameter of ours looks in the shape that a tensor of theirs has: views, so that copying through one, either
way, moves bits and computes nothing."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

View = Callable[[Tensor, int], Tensor]
"""(parameter, number of the expert) -> a view of it."""


def whole(parameter: Tensor, expert: int) -> Tensor:
    return parameter


def transposed(parameter: Tensor, expert: int) -> Tensor:
    """(out, in) -> (in, out), as GPT-2's Conv1D has it."""
    return parameter.T


VIEWS: dict[str, View] = {"whole": whole, "transposed": transposed}
