"""One variant with its settings, and how a check builds and calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from foundry.core.contracts import (
    ActivationParams,
    AttentionParams,
    Context,
    Dims,
    FeedForwardParams,
    OptionalParams,
    Params,
    PositionParams,
    ResidualParams,
    Variant,
)
from foundry.core.model import GPT, initialize
from foundry.core.registry import Registry, registry

DIMS = Dims(n_layer=2, n_head=4, n_embd=32, head_dim=8, block_size=24, vocab_size=19)
SEED = 1337


@dataclass(frozen=True)
class Case:
    """A variant with its settings, in a model of these sizes."""

    name: str  # the variant's or the shorthand's
    variant: Variant
    params: Params
    dims: Dims = DIMS

    @classmethod
    def of(
        cls, slot: str, name: str, params: Mapping[str, Any] = {}, dims: Dims = DIMS, known: Registry | None = None
    ) -> Case:
        """Look the variant or shorthand up, by default in the registry of this project. `params` are added to what a
        shorthand sets."""
        known = known or registry()
        shorthand = known.shorthands(slot).get(name)
        settings = dict(shorthand.expands_to) if shorthand else {"type": name}
        variant = known.variant(slot, settings.pop("type"))
        return cls(name, variant, variant.params(**{**settings, **params}), dims)

    @property
    def slot(self) -> str:
        return self.variant.slot

    @cached_property
    def target(self) -> Any:
        return self.variant.load()

    def build(self, *arguments: Any) -> Any:
        """The variant's target, called with its settings and `arguments`."""
        return self.target(self.params, *arguments)

    def layer(self, seed: int = SEED, companion: str = "", dims: Dims | None = None) -> Layer:
        """The variant in a layer, its weights filled from `seed`. `companion` names the position of an attention, or
        the activation of a feed-forward network."""
        layer = Layer(self, companion, dims or self.dims)
        initialize(layer, seed)
        return layer.eval()

    def companions(self) -> list[str]:
        """What it must work together with: each kind of position, each kind of activation."""
        if self.slot == "attention":
            positions: dict[str, str] = {}
            for name, variant in registry().variants("position").items():
                assert issubclass(variant.params, PositionParams)
                positions.setdefault(variant.params.acts_on, name)
            composes_with = getattr(self.params, "positions", ())
            return [name for acts_on, name in positions.items() if acts_on in composes_with]
        if self.slot == "ffn":
            activations: dict[bool, str] = {}
            for name, variant in registry().variants("activation").items():
                assert issubclass(variant.params, ActivationParams)
                activations.setdefault(variant.params.gated, name)
            return list(activations.values())
        return [""]

    def with_dims(self, **changes: Any) -> Case:
        return replace(self, dims=replace(self.dims, **changes))


class Layer(nn.Module):
    """Any variant that maps vectors to vectors, as one: x (B, T, C), ctx -> (B, T, C). A position is tried in the
    default attention."""

    init_parameter = GPT.init_parameter

    def __init__(self, case: Case, companion: str, dims: Dims) -> None:
        super().__init__()
        self.slot = case.slot
        match case.slot:
            case "attention":
                position = Case.of("position", companion or "none")
                self.part = case.build(dims, _attended(position, case, dims))
            case "ffn":
                activation = Case.of("activation", companion or "gelu")
                self.part = case.build(dims, activation.build(dims), is_gated(activation))
            case "norm":
                self.part = case.build(dims, dims.n_embd)
            case "canon" | "value_embedding" | "skip" if _is_absent(case, dims):
                self.part = nn.Identity()
            case "canon":
                attention, ffn = Case.of("attention", "mha"), Case.of("ffn", "dense")
                assert isinstance(attention.params, AttentionParams)
                assert isinstance(ffn.params, FeedForwardParams)
                sizes = {"attention": attention.params.canon_size(dims), "ffn": ffn.params.canon_size(dims, gated=True)}
                self.part = case.build(dims, sizes)
                self.attention = attention.build(dims, None)
                self.ffn = ffn.build(dims, Case.of("activation", "swiglu").build(dims), True)
            case "value_embedding":
                self.part, self.vocab_size = case.build(_last_layer(dims), dims.n_embd), dims.vocab_size
            case "skip":
                self.part, self.n_layer = case.build(dims), dims.n_layer
            case "residual":
                assert isinstance(case.params, ResidualParams)
                self.part = case.build(dims)
                norm = Case.of("norm", "rmsnorm")
                self.norm = norm.build(dims, dims.n_embd)
                self.post_norm = norm.build(dims, dims.n_embd) if case.params.has_post_norm else None
                self.sublayer = nn.Linear(dims.n_embd, dims.n_embd)
            case "activation":
                self.gated = is_gated(case)
                self.part = case.build(dims)
            case "position" if _acts_on(case) == "embeddings":
                self.part = case.build(dims)
            case "position":
                self.slot = "attention"
                attention = Case.of("attention", "mha")
                self.part = attention.build(dims, _attended(case, attention, dims))
            case slot:
                raise NotImplementedError(f"no check knows how to call a {slot}")

    def forward(self, x: Tensor, ctx: Context = Context()) -> Tensor:  # noqa: B008
        match self.slot:
            case "attention" | "ffn":
                return self.part(x, ctx)[0]
            case "activation":
                return self.part(x, x.flip(-1)) if self.gated else self.part(x)
            case "position":
                return self.part.embed(x, ctx.positions)
            case "canon" if not isinstance(self.part, nn.Identity):
                y = self.attention(*self.part.enter("attention", x, ctx))[0]
                return self.ffn(*self.part.enter("ffn", y, ctx))[0]
            case "value_embedding" if not isinstance(self.part, nn.Identity):
                ids = x[..., 0].detach().mul(1000).long().remainder(self.vocab_size)
                return x + self.part(x, ids)
            case "skip" if not isinstance(self.part, nn.Identity):
                y = x
                for layer in range(self.n_layer):
                    y = self.part(y.tanh(), x, layer)
                return y
            case "residual":
                y = self.sublayer(self.part.enter(x, self.norm))
                return self.part.leave(x, y, self.norm, self.post_norm)
            case _:
                return self.part(x)

    def init_cache(self, batch: int, max_len: int, dtype: torch.dtype = torch.float32) -> Any:
        if self.slot == "canon":
            return self.part.init_cache(self.attention.init_cache(batch, max_len, dtype, "cpu"), batch, dtype, "cpu")
        return self.part.init_cache(batch, max_len, dtype, "cpu")


def is_gated(activation: Case) -> bool:
    """Whether it is called with (gate, up)."""
    assert isinstance(activation.params, ActivationParams)
    return activation.params.gated


def filled(case: Case, companion: str) -> Params:
    """Its params with what the sizes and, of a feed-forward network, the activation decide."""
    if isinstance(case.params, FeedForwardParams):
        return case.params.filled(case.dims, is_gated(Case.of("activation", companion)))
    return case.params.filled(case.dims)


def _acts_on(position: Case) -> str:
    return getattr(position.params, "acts_on", "nothing")


def _attended(position: Case, attention: Case, dims: Dims) -> Any:
    """The position module that the model gives an attention: None for those that act elsewhere."""
    assert isinstance(attention.params, AttentionParams)
    return position.build(attention.params.position_dims(dims)) if _acts_on(position) in ("qk", "scores") else None


def _last_layer(dims: Dims) -> Dims:
    """The one that a part which only some layers have does not leave out."""
    return replace(dims, layer=dims.n_layer - 1)


def _is_absent(case: Case, dims: Dims) -> bool:
    """Whether no layer gets such a part."""
    assert isinstance(case.params, OptionalParams)
    return not case.params.has_part(_last_layer(dims))


def vectors(batch: int, length: int, dims: Dims, seed: int = SEED) -> Tensor:
    """Normal random x (B, T, C)."""
    return torch.randn(batch, length, dims.n_embd, generator=torch.Generator().manual_seed(seed))
