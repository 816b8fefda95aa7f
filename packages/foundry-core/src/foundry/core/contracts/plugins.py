"""What a plugin contributes, and its hooks. All of it is data: nothing here imports torch until a variant is built."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import pluggy
from pydantic import BaseModel, ConfigDict

from foundry.core.contracts.errors import PluginError
from foundry.core.contracts.metrics import Metric
from foundry.core.undisturbed import undisturbed

if TYPE_CHECKING:
    from foundry.core.contracts.model import Dims


FOUNDRY_API = 1
"""The version of this module. A plugin states the one it was written for as its own `FOUNDRY_API`."""


class Params(BaseModel):
    """The settings of a variant or a section. The types and ranges of the fields validate the experiment file, document
    it, and define the space of a search; a field's `description` becomes the editor's tooltip.

    A field that does not change the result (a name, a saving interval) has `json_schema_extra={"identity": False}`, and
    is not part of the experiment's identity. A field that no search should vary, such as an epsilon, has `{"search":
    False}`."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=True)

    variant: ClassVar[Variant | None] = None
    """The variant that these params choose; set on the classes whose instances an experiment's slots hold."""

    aliases: ClassVar[Mapping[str, str]] = {}
    """Other places in an experiment where a setting may be written: dotted path -> its name. A setting that the chosen
    variant lacks chooses the slot's first variant that has it, if the variant is not named elsewhere."""

    @classmethod
    def of_text(cls, text: str) -> Mapping[str, Any] | None:
        """The settings for a text in the place of a variant's name: `dataset: notes.txt`. None: this variant does not
        take it. The first variant of the slot that takes it is chosen."""
        return None

    def implied(self, dims: Dims) -> Mapping[str, Any]:
        """Settings of other variants of the slot that are fixed here: name -> its value in a model of these `dims`. An
        alias may state this value, and no other."""
        return {}

    def problems(self, dims: Dims) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong and what to do) for values that are impossible in a model of these `dims`."""
        yield from ()

    def remarks(self, dims: Dims) -> Iterator[tuple[str, str]]:
        """Yield (key, what to know) for values that are possible in a model of these `dims`, but may not do there what
        a user expects."""
        yield from ()

    def resized(self, old: Dims, new: Dims) -> Mapping[str, Any]:
        """The settings that must change when a mutation changes the model's sizes: name -> new value. `mutate width`,
        `depth` and every other mutation of sizes call it for each choice of the model and of its layers.

        Raises:
            ValueError: they cannot follow; it says why.
        """
        return {}

    def filled(self, dims: Dims) -> Self:
        """The same params, with each null replaced by its value in a model of these `dims`, such as a width that
        follows n_embd. So params with the same meaning are equal."""
        return self


@dataclass(frozen=True)
class Slot:
    """A place in the experiment where a variant is chosen."""

    name: str
    path: str  # its place in the experiment file: "model_args.attention"; empty: none, see `placed`
    default: str  # the variant if the file names none
    summary: str
    abbreviation: str = ""  # of the slot in file names: attn_mla; the slot's name by default
    per_layer: bool = False  # may `layers:` choose another variant for some layers
    also_at: tuple[str, ...] = ()  # other paths at which the choice may be written
    named: bool = False  # any number of choices, each under its own name: {easy: {type: recall, pairs: 2}}
    identity: bool = True  # whether the choice changes the result of a training
    params: type[Params] = Params  # the base class of its variants' params; core calls its methods

    @property
    def placed(self) -> bool:
        """Whether an experiment chooses the variant. If not, a command's option does, as for an executor."""
        return bool(self.path)

    @property
    def section(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def key(self) -> str:
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class Variant:
    """One way to fill a slot."""

    slot: str
    name: str
    target: str  # "package.module:attribute", imported only when the variant is built
    params: type[Params] = Params
    summary: str = ""
    reference: str = ""  # the paper or the code that it is equal to
    requires: tuple[str, ...] = ()  # what the machine must have: "cuda", "triton"
    plain: str = ""  # "package.module:Name" of the same in plain PyTorch, see foundry.core.contracts.plain_text

    def load(self) -> Any:
        """Import and return the target.

        Raises:
            PluginError: the module cannot be imported or lacks the attribute.
        """
        return _import(self.target, f"{self.slot} {self.name}")


@dataclass(frozen=True)
class Shorthand:
    """A name for a variant with some parameters set, usable wherever the variant's name is."""

    slot: str
    name: str
    expands_to: Mapping[str, Any]  # {"type": "gqa", "n_kv_head": 2}
    summary: str = ""


Edits: TypeAlias = Mapping[str, Any]
"""What a mutation changes: dotted path in the experiment file -> new value, or `DROP`."""


DROP: Any = type("Drop", (), {"__repr__": lambda self: "DROP", "__bool__": lambda self: False})()
"""As the value of an edit: remove the key, so that its default holds."""


@dataclass(frozen=True)
class Mutation:
    """A small named edit of an experiment, such as `depth 8`. Every slot is a mutation already, without further
    code."""

    type: str
    edit: Callable[[Mapping[str, Any], str], Edits]
    """A pure function of the resolved experiment, every default filled in, as plain data, and of the value from the
    command line. It raises ValueError, with what would be valid, for a value that makes no sense."""
    summary: str
    example: str = ""  # a value that works on the default experiment, for --help and for tests
    abbreviation: str = ""
    nearby: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    """Values to try on a resolved experiment, near its own value; `foundry evolve` uses them. They need not all be
    valid. Without it, only `example` is tried."""
    slot: str = ""
    """A slot: the mutation is then called `SLOT TYPE`, like a variant of it: `norm qknorm`, which sets a param of the
    attention. It has no other value, and `edit` gets its type as the value."""


@dataclass(frozen=True)
class Section:
    """A top-level part of the experiment file whose schema a package owns."""

    name: str
    params: type[Params]
    target: str = ""  # what core calls to build it, see `OpenData`
    summary: str = ""

    def load(self) -> Any:
        """Import and return the target.

        Raises:
            PluginError: the module cannot be imported or lacks the attribute.
        """
        return _import(self.target, f"section {self.name}")


def _import(target: str, whose: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        with undisturbed():
            return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        from foundry.core.blame import described  # which itself begins with the contracts

        raise PluginError(f"{whose}: cannot load {target}: {described(error)}") from error


Contribution: TypeAlias = Slot | Variant | Shorthand | Mutation | Section | Metric


@dataclass(frozen=True)
class Problem:
    """A plugin that could not be used, wholly or in part. The rest still works."""

    distribution: str
    plugin: str
    message: str


hookspec = pluggy.HookspecMarker("foundry")


hookimpl = pluggy.HookimplMarker("foundry")


class HookSpecs:
    """The hooks that a plugin may implement: a module named by an entry point of the group `foundry`."""

    @hookspec
    def foundry_variants(self) -> list[Variant]:  # type: ignore[empty-body]
        """Return the variants that this plugin adds."""

    @hookspec
    def foundry_shorthands(self) -> list[Shorthand]:  # type: ignore[empty-body]
        """Return the shorthands that this plugin adds."""

    @hookspec
    def foundry_mutations(self) -> list[Mutation]:  # type: ignore[empty-body]
        """Return the mutation types that this plugin adds, beyond the one that every slot is."""

    @hookspec
    def foundry_slots(self) -> list[Slot]:  # type: ignore[empty-body]
        """Return the slots that this plugin adds."""

    @hookspec
    def foundry_sections(self) -> list[Section]:  # type: ignore[empty-body]
        """Return the sections of the experiment file that this plugin owns."""

    @hookspec
    def foundry_metrics(self) -> list[Metric]:  # type: ignore[empty-body]
        """Return the metrics that this plugin's tasks give, beyond those that are known already."""
