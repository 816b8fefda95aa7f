"""What one architecture family of transformers is, as data: which keys of its config.json decide what of an
experiment, and which of its tensors are which of our parameters. Imports no torch.

    Family   config.json <-> model_args, by `keys`;  names of tensors, by `weights`
    Key      one key of config.json = one value of model_args
    Choice   the value of a key = a set of values of model_args
    Only     a key that may have one value, because nothing here is what the others mean
    WeightMap   one tensor of theirs = one or several parameters of ours

An experiment is compared and written as flat values, layer by layer: {"n_embd": 768, "attention.type": "gqa", ...}.
So every family reads and writes by the same table, and what the table says is true: `foundry.zoo.config_json` writes a
config.json, reads it back, and refuses where that is not the experiment that it began with. A key that the table does
not name is not looked at, so each key that changes what transformers computes must be in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from foundry.core.contracts import InvalidData

Flat: TypeAlias = "dict[str, Any]"
"""Dotted path in model_args -> value."""

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "REQUIRED"})()


class Config:
    """A config.json that is being read, with errors that name it."""

    def __init__(self, data: Mapping[str, Any], source: str) -> None:
        self.data, self.source = data, source

    def get(self, key: str, default: Any = REQUIRED, null: Any = REQUIRED) -> Any:
        """The value of a dotted key; `default` where it is missing, `null` where it is null. To transformers the two
        are not the same: null is a value, false where it takes a bool. Only a default of None is null, too.

        Raises:
            InvalidData: the key is missing and has no default, or is null and that means nothing.
        """
        *parents, last = key.split(".")
        data: Any = self.data
        for parent in parents:
            data = data.get(parent) if isinstance(data, Mapping) else None
        value = data.get(last, default) if isinstance(data, Mapping) else default
        if value is None and default is not None:
            value = null
            if value is REQUIRED and default is not REQUIRED:
                raise self.refuse(key, None, "null means nothing here", "leave the key out, or give it a value")
        if value is REQUIRED:
            raise InvalidData(f"{self.source}: it lacks the key {key}")
        return value

    def refuse(self, key: str, value: Any, why: str, hint: str = "") -> InvalidData:
        return InvalidData(f"{self.source}: {key}: {value!r}: {why}", hint)


@dataclass
class Reading:
    """What was read of a config.json: `args`, of every layer, and `layers`, of some, as in an experiment file."""

    args: Flat
    layers: dict[str, Flat] = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)  # path in args -> the key that decided it

    def set(self, config: Config, key: str, path: str, value: Any) -> None:
        """Raises InvalidData where another key said otherwise."""
        if path in self.by and self.args[path] != value:
            raise config.refuse(key, config.get(key, None), f"cannot differ from {self.by[path]}: here both are {path}")
        self.args[path], self.by[path] = value, key


class Entry(Protocol):
    """A line of a family's table."""

    def read(self, config: Config, reading: Reading) -> None:
        """config.json -> model_args."""

    def write(self, layers: Sequence[Flat], config: dict[str, Any]) -> None:
        """The best guess at what of config.json says the same, from each layer's values, every default filled in."""


@dataclass(frozen=True)
class Key:
    """`theirs` of config.json is `ours` of model_args. `default` is what transformers takes where the key is missing,
    `null` what it takes where it is null; `like`, the key whose value it takes where neither says."""

    theirs: str
    ours: str
    default: Any = REQUIRED
    null: Any = REQUIRED
    like: str = ""
    at: int = 0  # the layer that is asked when writing

    def read(self, config: Config, reading: Reading) -> None:
        like = config.get(self.like) if self.like else REQUIRED
        default, null = (like if said is REQUIRED else said for said in (self.default, self.null))
        reading.set(config, self.theirs, self.ours, config.get(self.theirs, default, null))

    def write(self, layers: Sequence[Flat], config: dict[str, Any]) -> None:
        if self.ours in layers[self.at]:
            put(config, self.theirs, layers[self.at][self.ours])


@dataclass(frozen=True)
class Choice:
    """Each value that `theirs` can have stands for some values of model_args."""

    theirs: str
    means: Mapping[Any, Flat]
    default: Any = REQUIRED
    at: int = 0

    def read(self, config: Config, reading: Reading) -> None:
        value = config.get(self.theirs, self.default)
        if value not in self.means:
            known = ", ".join(map(str, self.means))
            raise config.refuse(self.theirs, value, "Foundry has no such part", f"it has {known}")
        for path, meant in self.means[value].items():
            reading.set(config, self.theirs, path, meant)

    def write(self, layers: Sequence[Flat], config: dict[str, Any]) -> None:
        flat = layers[self.at]
        fitting = [value for value, meant in self.means.items() if all(flat.get(p) == v for p, v in meant.items())]
        put(config, self.theirs, (fitting or list(self.means))[0])


@dataclass(frozen=True)
class Only:
    """A key that must have one of these values, of which null is one only if it is named; the first is taken where the
    key is missing, and written if it is not null: transformers looks whether some keys are there."""

    theirs: str
    values: tuple[Any, ...]

    def read(self, config: Config, reading: Reading) -> None:
        value = config.get(self.theirs, self.values[0], null=None)
        if value not in self.values:
            raise config.refuse(self.theirs, value, f"Foundry knows only {' or '.join(map(repr, self.values))}")

    def write(self, layers: Sequence[Flat], config: dict[str, Any]) -> None:
        if self.values[0] is not None:
            put(config, self.theirs, self.values[0])


@dataclass(frozen=True)
class WeightMap:
    """The tensor `theirs` is the parameters `ours`, joined along `dim`, each seen through `view`.

    Names hold `{layer}`, and `theirs` may hold `{expert}`. `view` and `order` name functions of `foundry.zoo.views`:
    one shows a parameter of ours in the shape that theirs has, the other says which row of it each of theirs is.
    Neither computes anything, so in and out again are the same bits.
    """

    theirs: str
    ours: tuple[str, ...]
    view: str = "whole"
    dim: int = 0
    order: str = ""


def same(pairs: Mapping[str, str]) -> tuple[WeightMap, ...]:
    """Weights that differ by name alone: theirs -> ours."""
    return tuple(WeightMap(theirs, (ours,)) for theirs, ours in pairs.items())


@dataclass(frozen=True)
class Family:
    """An architecture of transformers, or of a plugin that knows another."""

    model_type: str  # as config.json names it
    architecture: str  # the class that transformers builds
    args: Flat  # what is so in every model of the family
    keys: tuple[Entry, ...]
    weights: tuple[WeightMap, ...]
    unused: tuple[str, ...] = ()  # of model_args, what decides nothing in a model of the family
    # Where things stand in the model that transformers builds; by default as in Llama and most others:
    layers: str = "model.layers.{layer}"
    norm: str = "model.norm"  # the last one
    prefix: str = "model."  # which names of tensors may lack: a base model was saved
    ignored: tuple[str, ...] = (
        "rotary_emb.inv_freq",
    )  # endings of names of tensors, in old files, that are no weights
    ahead: str = ""  # the key that counts layers after the last, which predict tokens further ahead and are not read


def put(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *parents, last = key.split(".")
    for parent in parents:
        config = config.setdefault(parent, {})
    config[last] = value
