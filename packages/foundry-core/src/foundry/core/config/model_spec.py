"""What a model is made of: its sizes, and the choice of every layer and slot. `GPT(spec, build)` needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd
from typing import Any, Self

from foundry.core.blame import FAULTS, described
from foundry.core.contracts import (
    DROP,
    ActivationParams,
    AttentionParams,
    CanonParams,
    Dims,
    FeedForwardParams,
    InvalidExperiment,
    NormParams,
    OptionalParams,
    Params,
    PluginError,
    PositionParams,
    ResidualParams,
    ScalingParams,
    Sublayer,
)


@dataclass(frozen=True)
class LayerSpec:
    """What a layer is made of: of each of its slots the chosen variant's params."""

    attention: AttentionParams
    ffn: FeedForwardParams
    norm: NormParams
    activation: ActivationParams
    position: PositionParams
    residual: ResidualParams
    canon: CanonParams
    value_embedding: OptionalParams

    def canon_sizes(self, dims: Dims) -> dict[Sublayer, int]:
        """Width of what a canon layer can mix inside each sublayer; 0: nothing."""
        gated = self.activation.gated
        return {"attention": self.attention.canon_size(dims), "ffn": self.ffn.canon_size(dims, gated)}


@dataclass(frozen=True)
class ModelSpec:
    """A whole model: the sizes, the layers, and what there is once."""

    dims: Dims
    layers: tuple[LayerSpec, ...]
    position: PositionParams  # of the embeddings, where it acts on them
    norm: NormParams  # the last one, before the head
    skip: OptionalParams
    scaling: ScalingParams
    tie_embeddings: bool
    logit_softcap: float | None

    def as_wide_as(self, n_embd: int) -> Self:
        """The same with another width: heads keep theirs, and settings follow as each choice says. As `mutate width`.

        Raises:
            InvalidExperiment: there is no such model.
            PluginError: a choice's code fails.
        """
        old = self.dims
        new = replace(old, n_embd=n_embd, n_head=heads_of(n_embd, old.n_embd, old.n_head))
        if new == old:
            return self
        layers = tuple(LayerSpec(**_resized(vars(layer), old, new)) for layer in self.layers)
        return replace(self, **_resized({**vars(self), "dims": new, "layers": layers}, old, new))


def heads_of(n_embd: int, before: int, n_head: int) -> int:
    """How many heads a model of width `n_embd` has, each as wide as the `n_head` in one of width `before`.

    Raises:
        InvalidExperiment: it is no multiple of a head.
    """
    unit = before // gcd(before, n_head)
    if n_embd < 1 or n_embd % unit:
        raise InvalidExperiment(f"heads that keep their width ({n_head} in {before}) need a multiple of {unit}")
    return n_head * n_embd // before


def following(params: Params, old: Dims, new: Dims, where: str) -> Mapping[str, Any]:
    """Which settings of a choice follow the sizes, and to what.

    Args:
        where: the choice stands, for messages.

    Raises:
        InvalidExperiment: it cannot follow.
        PluginError: its code fails.
    """
    try:
        values = params.resized(old, new)
        return {name: values[name] for name in values}
    except ValueError as error:
        raise InvalidExperiment(str(error)) from error
    except FAULTS as error:
        raise PluginError(f"{where}: its method `resized` failed: {described(error)}") from error


def _resized(fields: Mapping[str, Any], old: Dims, new: Dims) -> dict[str, Any]:
    """The fields of a spec, of which choices follow the sizes."""
    found = dict(fields)
    for slot, choice in fields.items():
        if isinstance(choice, Params) and (changed := following(choice, old, new, slot)):
            kept = {name: value for name, value in choice if changed.get(name) is not DROP}
            given = {name: value for name, value in changed.items() if value is not DROP}
            try:
                found[slot] = type(choice).model_validate({**kept, **given})
            except ValueError as error:
                raise InvalidExperiment(f"{slot} has no such settings: {given}") from error
    return found
