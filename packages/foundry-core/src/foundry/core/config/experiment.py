"""The experiment: one training run's every setting, valid and complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from foundry.core.config.document import Document
from foundry.core.config.layer_keys import parse_layers
from foundry.core.config.model_spec import ModelSpec
from foundry.core.config.schema import NOT_IDENTITY, Checkpoints, Logging, ModelArgs, Training
from foundry.core.contracts import Dims, Params

if TYPE_CHECKING:
    from foundry.core.registry import Registry


@dataclass(frozen=True)
class Provenance:
    """Where an experiment came from."""

    registry: Registry
    project: Path  # the folder that holds experiments/, runs/, variants/
    explicit: Document  # what was written, with sugar and `extends` resolved and no default filled in
    path: Path | None = None  # the experiment file, if it came from one


class Experiment(Params):
    """Made by `load_experiment` and `from_plain`, never directly: its slots' fields come from the registry."""

    name: str = Field(
        "experiment",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+=-]*$",
        max_length=150,
        description="name of the run folder and in tables; default: the file's stem",
        json_schema_extra=NOT_IDENTITY,
    )
    seed: int = Field(
        1337,
        ge=0,
        lt=2**63,
        description="seed of initial weights, dropout and the order of data",
        json_schema_extra=NOT_IDENTITY,
    )
    init_from: str | None = Field(
        None, min_length=1, description="start from these weights: zoo:NAME, a run folder, or a folder of weights"
    )

    if TYPE_CHECKING:
        model_args: ModelArgs
        data: Any
        training: Training
        eval: Any
        logging: Logging
        checkpoints: Checkpoints
        layers: Mapping[str, Any]

    _provenance: Provenance = PrivateAttr()

    @property
    def registry(self) -> Registry:
        return self._provenance.registry

    @property
    def project(self) -> Path:
        """The folder that holds experiments/, runs/ and variants/."""
        return self._provenance.project

    @property
    def path(self) -> Path | None:
        """The file this came from, if it came from one."""
        return self._provenance.path

    @property
    def explicit(self) -> dict[str, Any]:
        """What was written, in its order, with sugar and `extends` resolved and no default filled in."""
        from copy import deepcopy

        written: dict[str, Any] = deepcopy(self._provenance.explicit.data)
        return written

    def plain(self) -> dict[str, Any]:
        """Everything, each default filled in, as JSON: what `from_plain` reads."""
        data = {name: _plain(getattr(self, name)) for name in type(self).model_fields}
        for override in data["layers"].values():
            for slot in [slot for slot, choice in override.items() if choice is None]:
                del override[slot]
        return data

    @cached_property
    def identity(self) -> str:
        """sha256 of what decides the result; see `foundry.core.config.identity`."""
        from foundry.core.config.identity import identity

        return identity(self)

    def layer_args(self, layer: int) -> ModelArgs:
        """`model_args` with what `layers` says for this layer (from 0)."""
        return self._layer_args[layer]

    def dims(self, vocab_size: int = 0, layer: int = 0) -> Dims:
        """The sizes that a variant is built for."""
        args = self.model_args
        return Dims(
            n_layer=args.n_layer,
            n_head=args.n_head,
            n_embd=args.n_embd,
            head_dim=args.head_dim or args.n_embd // args.n_head,
            block_size=args.block_size,
            vocab_size=vocab_size,
            dropout=args.dropout,
            bias=args.bias,
            layer=layer,
        )

    def model_spec(self, vocab_size: int) -> ModelSpec:
        """What the model of this experiment is made of, with a vocabulary of so many tokens."""
        args = self.model_args
        return ModelSpec(
            dims=self.dims(vocab_size),
            layers=tuple(self.layer_args(layer).layer_spec() for layer in range(args.n_layer)),
            position=args.position,
            norm=args.norm,
            skip=args.skip,
            scaling=args.scaling,
            tie_embeddings=args.tie_embeddings,
            logit_softcap=args.logit_softcap,
        )

    @cached_property
    def _layer_args(self) -> list[ModelArgs]:
        args = [self.model_args] * self.model_args.n_layer
        for key, override in self.layers.items():
            chosen = {slot: choice for slot, choice in override if choice is not None}
            changed = self.model_args.model_copy(update=chosen)
            for layer in parse_layers(key, self.model_args.n_layer):
                args[layer] = changed
        return args


def _plain(value: Any) -> Any:
    if isinstance(value, Params):
        data = value.model_dump(mode="json")
        fields = {name: _plain(item) if isinstance(item, Params | dict) else data[name] for name, item in value}
        # A choice reads best with its name first.
        return {"type": fields.pop("type"), **fields} if "type" in fields else fields
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
