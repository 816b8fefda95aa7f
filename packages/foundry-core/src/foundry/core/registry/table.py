"""The checked table of contributions, and the answers to "what is there?", "whose is it?" and "did you mean?"."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from foundry.core.blame import answers_for
from foundry.core.contracts import (
    Contribution,
    FoundryError,
    Metric,
    Mutation,
    Params,
    PluginError,
    Problem,
    Section,
    Shorthand,
    Slot,
    TaskParams,
    UsageError,
    Variant,
)
from foundry.core.registry.discovery import BUILT_IN, Plugin
from foundry.core.undisturbed import undisturbed

NAME = re.compile(r"[a-z][a-z0-9_]*")
# Among what a name is unique; a slot's name is the third kind, and holds no space.
TYPE, SECTION, METRIC = "mutation type", "section of the experiment", "metric"
RESERVED = ("extends", "name", "seed", "init_from", "layers")
"""Keys of an experiment that are no sections."""
TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


_origins: WeakKeyDictionary[Any, Variant] = WeakKeyDictionary()
"""What was built -> the variant that it is of."""


class Registry:
    """What plugins contributed, after validation. The first owner of a name keeps it; whatever else claims it is
    refused and reported in `problems`."""

    def __init__(self, plugins: Iterable[Plugin] = (), problems: Iterable[Problem] = ()) -> None:
        self.plugins = tuple(plugins)
        self.problems = list(problems)
        self.slots: dict[str, Slot] = {}
        self.sections: dict[str, Section] = {}
        self.mutations: dict[str, Mutation] = {}
        self.metrics: dict[str, Metric] = {}
        self._slot_mutations: dict[str, dict[str, Mutation]] = {}
        self._variants: dict[str, dict[str, Variant]] = {}
        self._shorthands: dict[str, dict[str, Shorthand]] = {}
        self._owners: dict[tuple[str, str], Plugin] = {}
        # Kind by kind, because a variant may fill another plugin's slot or give its metric, and a shorthand name
        # another's variant.
        for kind in (Slot, Section, Metric, Variant, Shorthand, Mutation):
            for plugin in self.plugins:
                for contribution in plugin.contributions:
                    if isinstance(contribution, kind):
                        self._admit(contribution, plugin)
        self._check_defaults()

    # ----------------------------------------------------------------------------------------------------------------
    # Look-ups

    def variants(self, slot: str) -> dict[str, Variant]:
        """Name -> variant, in the order of discovery. Raises UsageError for an unknown slot."""
        self._check_slot(slot)
        return self._variants[slot]

    def shorthands(self, slot: str) -> dict[str, Shorthand]:
        """Name -> shorthand. Raises UsageError for an unknown slot."""
        self._check_slot(slot)
        return self._shorthands[slot]

    def slot_mutations(self, slot: str) -> dict[str, Mutation]:
        """Name -> mutation that stands beside the slot's variants. Raises UsageError for an unknown slot."""
        self._check_slot(slot)
        return self._slot_mutations[slot]

    def variant(self, slot: str, name: str) -> Variant:
        """Raises UsageError with the nearest names; PluginError if a broken plugin may be what is missing."""
        variants = self.variants(slot)
        if name not in variants:
            raise self.unknown_variant(slot, name)
        return variants[name]

    def metric(self, name: str) -> Metric | None:
        """What is known of a metric: `val_loss`, or `gsm8k.accuracy`, of a task. None: nothing, as of one whose plugin
        is gone."""
        return self.metrics.get(name.rpartition(".")[2])

    def source(self, named: str | None) -> Variant | None:
        """Whose first weights `init_from: named` are: the variant of the slot `source` that takes the name, else the
        slot's default. None without a name."""
        if named is None:
            return None
        for variant in self.variants("source").values():
            with answers_for(variant.params), undisturbed():
                if variant.params.takes(named):  # type: ignore[attr-defined]  # whose class the slot demands
                    return variant
        return self.variant("source", self.slots["source"].default)

    def owner(self, slot: str, name: str) -> str:
        """The distribution that contributed a variant or shorthand, `local` for the project's own files."""
        if (slot, name) not in self._owners:
            raise self.unknown_variant(slot, name)
        return self._owners[slot, name].distribution

    def plugin_of(self, contribution: Contribution) -> Plugin:
        """Which plugin contributed it."""
        return self._owners[_claim(contribution)]

    def type_owner(self, type: str) -> str:
        """The distribution that contributed a mutation type: a `Mutation`, or the slot of that name."""
        return self._owners[TYPE, type].distribution

    def build(self, slot: str, choice: Any, *args: Any) -> Any:
        """Import the variant that `choice.type` names and call it with `choice`, its params, and `args`.

        Raises:
            PluginError: it cannot be called so, or it makes nothing.
        """
        variant = self.variant(slot, choice.type)
        target = variant.load()
        with answers_for(target), undisturbed():
            made = target(choice, *args)
            if made is None:
                raise TypeError(f"it returns None, and has to make what fills slot {slot}")
        with suppress(TypeError):  # what cannot be referred to weakly is no module
            _origins[made] = variant
        return made

    @staticmethod
    def origin(made: Any) -> Variant | None:
        """The variant that an object which some registry's `build` made is of."""
        return _origins.get(made)

    def is_foreign(self, variant: Variant) -> bool:
        """Whether a variant is a plugin's, or of the project's own files, and not Foundry's."""
        return self.owner(variant.slot, variant.name) not in BUILT_IN

    def inventory(self) -> list[tuple[str, str, str]]:
        """Sorted (distribution, version, "slot/name") of every variant; a local file's version is its source's hash."""
        rows = []
        for slot, variants in self._variants.items():
            for name in variants:
                owner = self._owners[slot, name]
                rows.append((owner.distribution, owner.version, f"{slot}/{name}"))
        return sorted(rows)

    @property
    def placed_slots(self) -> list[Slot]:
        """The slots that have a place in the experiment file; the others are filled on the command line."""
        return [slot for slot in self.slots.values() if slot.placed]

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Where something may be written -> where it belongs: `training.dataset` -> `data.dataset`."""
        found = {path: slot.path for slot in self.placed_slots for path in slot.also_at}
        for slot in self.placed_slots:
            for variant in self._variants[slot.name].values():
                for path, name in variant.params.aliases.items():
                    found.setdefault(path, f"{slot.path}.{name}")
        return found

    def fingerprint(self) -> str:
        """sha256 of the inventory: ranks that agree on it build the same variants."""
        return hashlib.sha256(json.dumps(self.inventory()).encode()).hexdigest()

    def _check_slot(self, slot: str) -> None:
        if slot not in self.slots:
            raise UsageError(f"there is no slot {slot!r}", f"known: {', '.join(self.slots) or 'none'}")

    def unknown_variant(self, slot: str, name: str) -> FoundryError:
        """The error for a name that slot `slot` does not have: near names here, then in other slots, then a way out."""
        from difflib import get_close_matches

        known = [*self._variants[slot], *self._shorthands[slot], *self._slot_mutations[slot]]
        near = [f"{slot} {match}" for match in get_close_matches(name.lower(), known, n=3)]
        for other in self.slots:
            if other != slot:
                names = [*self._variants[other], *self._shorthands[other]]
                near += [f"{other} {match}" for match in get_close_matches(name.lower(), names, n=1, cutoff=0.8)]
        hints = [f"did you mean: {', '.join(near)}"] if near else []
        hints.append(f"known: {', '.join(known) or 'none'}")
        if not near:
            hints.append("is the plugin that has it installed? `foundry plugins list` shows what is")
        hints += [f"{problem.distribution} ({problem.plugin}) {problem.message}" for problem in self.problems]
        error = PluginError if self.problems and not near else UsageError
        return error(f"{slot} has no variant {name!r}", "\n  ".join(hints))

    # ----------------------------------------------------------------------------------------------------------------
    # Admission

    def _admit(self, contribution: Contribution, plugin: Plugin) -> None:
        """Keep one contribution, or say in `problems` why not."""
        what = label(contribution)
        fault = self._fault(contribution)
        if fault:
            self._refuse(plugin, f"{what}: {fault}")
            return
        claim = _claim(contribution)
        if claim in self._owners:
            first = self._owners[claim]
            self._refuse(plugin, f"{what} already belongs to {first.distribution} ({first.name}), which keeps it")
            return
        self._owners[claim] = plugin
        match contribution:
            case Slot(name=name):
                self.slots[name] = contribution
                self._variants[name], self._shorthands[name], self._slot_mutations[name] = {}, {}, {}
            case Section(name=name):
                self.sections[name] = contribution
            case Metric(name=name):
                self.metrics[name] = contribution
            case Variant(slot=slot, name=name):
                self._variants[slot][name] = contribution
            case Shorthand(slot=slot, name=name):
                self._shorthands[slot][name] = contribution
            case Mutation(type=name, slot=""):
                self.mutations[name] = contribution
            case Mutation(type=name, slot=slot):
                self._slot_mutations[slot][name] = contribution

    def _fault(self, contribution: Contribution) -> str:
        """What makes a contribution unusable by itself, or an empty string."""
        name = contribution.type if isinstance(contribution, Mutation) else contribution.name
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            return "a name is lower-case letters, digits and _, beginning with a letter"
        slot = getattr(contribution, "slot", "")
        if (slot or isinstance(contribution, Variant | Shorthand)) and slot not in self.slots:
            return f"there is no slot {slot!r}; there are {', '.join(self.slots) or 'none'}"
        match contribution:
            case Variant(target=target) if not (isinstance(target, str) and TARGET.fullmatch(target)):
                return f"its target {target!r} is not 'package.module:attribute'"
            case Variant(params=params) | Section(params=params):
                if not (isinstance(params, type) and issubclass(params, Params)):
                    return f"its params {params!r} are not a subclass of foundry.core.contracts.Params"
                base = self.slots[contribution.slot].params if isinstance(contribution, Variant) else Params
                if not issubclass(params, base):
                    return f"its params {params.__name__} are not a subclass of {base.__name__}, as {slot}'s must be"
                if isinstance(contribution, Section) and name in RESERVED:
                    return f"an experiment has a key {name!r} already"
                if issubclass(params, TaskParams) and (missing := self._missing_metrics(params)):
                    return f"it gives {missing}, which is no metric; `foundry_metrics` adds one"
                for path, setting in params.aliases.items():
                    if path.count(".") != 1 or setting not in params.model_fields:
                        return (
                            f"its alias {path!r}: {setting!r} leads from no 'section.key', or to no setting of its own"
                        )
                if isinstance(contribution, Variant) and "type" in params.model_fields:
                    return "its params may not have a field `type`: that is where the experiment names the variant"
            case Shorthand(slot=slot, expands_to=expands_to):
                chosen = expands_to.get("type") if isinstance(expands_to, Mapping) else None
                if chosen not in self._variants[slot]:
                    return f"it expands to the type {chosen!r}, which is no variant of {slot}"
            case Mutation(edit=edit) if not callable(edit):
                return f"its edit {edit!r} cannot be called"
            case Slot(named=True, per_layer=True):
                return "choices with names of their own cannot differ from layer to layer"
            case Slot(path="", per_layer=True):
                return "a slot that is not in the experiment file has no layers"
            case Slot(path=path) if path and path.count(".") != 1:
                return f"its path {path!r} is not 'section.key'"
            case Slot(path=path):
                for other in self.slots.values():
                    if path and other.path == path and other.name != name:
                        return f"its path {path!r} is that of slot {other.name}"
        return ""

    def _missing_metrics(self, params: type[TaskParams]) -> str:
        """Those that a task gives and were not told yet, in words; empty where there is none."""
        return ", ".join(name for name in params.metrics if name not in self.metrics) if params.metrics else "nothing"

    def _check_defaults(self) -> None:
        for name, slot in self.slots.items():
            if slot.default and slot.default not in self._variants[name] and slot.default not in self._shorthands[name]:
                self._refuse(self._owners[TYPE, name], f"slot {name}: its default {slot.default!r} was not contributed")

    def _refuse(self, plugin: Plugin, message: str) -> None:
        self.problems.append(Problem(plugin.distribution, plugin.name, message))


def label(contribution: Contribution) -> str:
    """How a contribution is called in a message: `attention mla`, `slot norm`, `mutation depth`."""
    match contribution:
        case Variant(slot=slot, name=name) | Shorthand(slot=slot, name=name):
            return f"{slot} {name}"
        case Mutation(type=name, slot=slot):
            return f"{slot or 'mutation'} {name}"
        case _:
            return f"{type(contribution).__name__.lower()} {contribution.name}"


def _claim(contribution: Contribution) -> tuple[str, str]:
    """The name that only one contribution may have, and among what: a shorthand is used like a variant, and a slot is
    a mutation type like any other."""
    match contribution:
        case Variant(slot=slot, name=name) | Shorthand(slot=slot, name=name):
            return slot, name
        case Section(name=name):
            return SECTION, name
        case Metric(name=name):
            return METRIC, name
        case Mutation(type=name, slot=slot) if slot:
            return slot, name
        case Slot(name=name) | Mutation(type=name):
            return TYPE, name
