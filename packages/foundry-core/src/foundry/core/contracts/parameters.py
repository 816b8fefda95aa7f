"""What parameters are: optimizers, scale rules and initial values read it here.

The number of its axes does not tell: the biases of a stack of experts have two axes, like a matrix, and so have the
gains of a norm with some for each head. A variant says what its parameters are by a mapping `roles`, on the module that
owns them or on a module around it:

    class Experts(nn.Module):
        roles = {"weight": "matrix", "offset": "bias"}

The roles of torch's own modules, and of names that end in `bias`, are known. Any other parameter without an entry is
`other` if it has two axes or more, and has no role if it has fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from foundry.core.contracts.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor, nn

Role: TypeAlias = Literal["matrix", "head", "router", "neurons", "table", "kernel", "gain", "bias", "other"]
"""What a parameter does.

matrix   (..., out, in), multiplied with every vector: one, or a stack of them, such as one for each expert
head     (V, in): the matrix that makes logits
router   (..., out, in): a matrix whose products choose, such as an expert
neurons  (..., n): vectors; a token is multiplied with those that it chose
table    (..., n): vectors that are looked up, such as embeddings
kernel   (out, in, ...): of a convolution
gain     what features are multiplied with, such as a norm's, or streams that are mixed
bias     what is added to features or scores
other    (..., out, in): weights without another role

Gains and biases may have any number of axes, of which the last is that of the features."""

DECAYING: frozenset[Role] = frozenset({"matrix", "head", "router", "neurons", "table", "kernel", "other"})
"""The roles with weight decay. Gains and biases do not decay, because no norm after them undoes it."""

MATRICES: frozenset[Role] = frozenset({"matrix", "head", "router", "kernel", "other"})
"""The roles with an output axis and an input axis."""

_OF_TORCH: dict[str, Role] = {
    "Linear": "matrix",
    "Embedding": "table",
    "EmbeddingBag": "table",
    "_ConvNd": "kernel",
    "LayerNorm": "gain",
    "RMSNorm": "gain",
    "GroupNorm": "gain",
    "_NormBase": "gain",
    "PReLU": "gain",
}
"""Of `weight` in torch's modules, by the name of the class: this file imports no torch."""


def role_of(model: nn.Module, path: str) -> Role | None:
    """The role of the parameter at `path`: from the `roles` of the nearest module on the path to it, or from its
    owner's class.

    Raises:
        PluginError: the entry is not a role, or not one for so few axes; or `roles` is not a mapping.
    """
    on_the_way = list(owners(model, path))
    for owner, name in on_the_way:
        said: Role | None = _said(owner, name)
        if said is not None:
            _check(said, getattr(*on_the_way[0]).ndim, f"{type(owner).__qualname__}.roles: {name}")
            return said
    owner, name = on_the_way[0]
    classes = [each.__name__ for each in type(owner).__mro__ if each.__module__.startswith("torch.nn.")]
    if name == "weight" and (known := [_OF_TORCH[each] for each in classes if each in _OF_TORCH]):
        return known[0]
    if name.endswith("bias"):
        return "bias"
    return "other" if getattr(owner, name).ndim >= 2 else None


def _said(owner: nn.Module, name: str) -> Role | None:
    mapping: Any = getattr(owner, "roles", {})
    if not isinstance(mapping, Mapping):
        what = f"{type(owner).__qualname__}.roles is a {type(mapping).__name__}, not a mapping of parameters' names"
        raise PluginError(what, "it says what parameters are, {'weight': 'matrix'}: call anything else another name")
    role: Role | None = mapping.get(name)
    return role


def _check(role: str, axes: int, where: str) -> None:
    if role not in get_args(Role):
        raise PluginError(f"{where} is {role!r}, which is not a role", f"use one of {', '.join(get_args(Role))}")
    if role in MATRICES and axes < 2:
        raise PluginError(f"{where} is {role!r} and has {axes} axes, not (..., out, in)", "call it a gain or a bias")


def roles(model: nn.Module) -> dict[Tensor, Role | None]:
    """The role of each parameter of `model`. If several modules share one, such as a tied embedding, its role is that
    in the first of them, or `table` if one of them looks it up."""
    found: dict[Tensor, Role | None] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        role = role_of(model, path)
        if parameter not in found or role == "table":
            found[parameter] = role
    return found


def owners(model: nn.Module, path: str) -> Iterator[tuple[Any, str]]:
    """The modules on the path to a parameter, the nearest first and the model last, each with the rest of the path."""
    parts = path.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        yield model.get_submodule(".".join(parts[:depth])), ".".join(parts[depth:])


Update: TypeAlias = Literal["elementwise", "orthogonal"]
"""What has the size of the learning rate in an optimizer's step: each entry (Adam, Lion), or each singular value, times
sqrt(rows / columns) for a tall matrix (Muon)."""


def lr_factors(model: Any, update: Update) -> dict[Tensor, float]:
    """The factors of the model's scale rule on the learning rate of each parameter; 1 for models without a rule."""
    factor = getattr(model, "lr_factor", None)
    return {parameter: factor(name, update) if factor else 1.0 for name, parameter in model.named_parameters()}


WeightKind: TypeAlias = Literal["input", "hidden", "output", "head", "fixed"]
"""Which sides of a parameter grow with n_embd (arXiv:2203.03466, table 3). It follows from the role and the axes.

input    only its fan-out: embeddings, the gains of norms, biases
hidden   both: the matrices of attention and feed-forward
output   only its fan-in: a router
head     as `output`, and its product is multiplied by `Multipliers.logits`; a tied head is an `input`
fixed    neither: a bias per expert, a short convolution"""


class Weight(NamedTuple):
    """A parameter, as a scale rule sees it."""

    name: str  # its path in the model
    kind: WeightKind
    in_layer: bool  # one for each of n_layer layers
