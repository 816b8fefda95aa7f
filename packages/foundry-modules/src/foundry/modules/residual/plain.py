"""Plain texts of residuals, see `foundry.core.contracts.plain_text`: f is the sublayer."""

from collections.abc import Callable

from torch import Tensor

from foundry.core.contracts.plain_text import dims

Map = Callable[[Tensor], Tensor]


def pre(x: Tensor, f: Map, norm: Map, post_norm: Map, dropout: Map) -> Tensor:
    return x + branch(f(norm(x)), dropout)


def post(x: Tensor, f: Map, norm: Map, post_norm: Map, dropout: Map) -> Tensor:
    return x + branch(norm(f(x)), dropout)


def post_add(x: Tensor, f: Map, norm: Map, post_norm: Map, dropout: Map) -> Tensor:
    return norm(x + branch(f(x), dropout))


def sandwich(x: Tensor, f: Map, norm: Map, post_norm: Map, dropout: Map) -> Tensor:
    return x + branch(post_norm(f(norm(x))), dropout)


def branch(y: Tensor, dropout: Map) -> Tensor:
    """What is added to the stream."""
    return scaled(dropout(y) if dims.dropout else y)


def scaled(y: Tensor) -> Tensor:
    return y * dims.multipliers.branch if dims.multipliers.branch != 1 else y
