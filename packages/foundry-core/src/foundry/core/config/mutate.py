"""Mutates an experiment: `mutate(base, "attention", "gqa_2kv")` is a new, valid experiment with a name of its own.

Every slot is a mutation type, and so is every `Mutation` of a plugin. What makes two experiments comparable stays as
it is: the seed, the dataset, how it is evaluated, and the budget in tokens (or FLOPs, or seconds). Of `data`, only
slots other than the dataset can change: bits per byte compare tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foundry.core.blame import FAULTS, described
from foundry.core.config.assemble import assemble, edit, edited, followed, tries
from foundry.core.config.difference import Change, difference
from foundry.core.config.document import Place
from foundry.core.config.experiment import Experiment
from foundry.core.config.remarks import remarks, steps_by_full_rows
from foundry.core.config.schema import BUDGETS
from foundry.core.config.write_yaml import comment, number, to_yaml
from foundry.core.config.yaml import scalar
from foundry.core.contracts import (
    Edits,
    InvalidExperiment,
    Mutation,
    PluginError,
    Shorthand,
    Slot,
    UsageError,
    Variant,
)
from foundry.core.project import BASELINE
from foundry.core.registry import Registry

FIXED = ("name", "seed", "eval", "data", *(f"training.{budget}" for budget in BUDGETS if budget != "max_iters"))
FIXED_SLOTS = ("dataset", "task")


@dataclass(frozen=True)
class Mutated:
    """A mutated experiment, not yet written anywhere; see `foundry.core.config.write_yaml.write_experiment`."""

    base: Experiment
    type: str
    value: str
    experiment: Experiment

    @property
    def name(self) -> str:
        """`attn_gqa_2kv`; on a base that is itself mutated, `BASE+attn_gqa_2kv`."""
        return self.experiment.name

    @property
    def changes(self) -> list[Change]:
        return difference(self.base, self.experiment)

    @property
    def remarks(self) -> list[str]:
        """What to know before training it, a line each."""
        return [*remarks(self.base, self.experiment), *steps_by_full_rows(self.base, self.experiment)]

    @property
    def text(self) -> str:
        """The whole file: what the base's author wrote, in that order, with the mutation in it."""
        return f"# {comment(f'{self.type} {self.value}, from {self.base.name}')}\n\n{to_yaml(self.experiment)}"


@dataclass(frozen=True)
class Listed:
    """One row of `foundry mutate --list`."""

    type: str
    value: str  # a variant, a shorthand or a mutation of a slot; for other types, an example
    summary: str
    distribution: str


def mutate(base: Experiment, type: str, value: str) -> Mutated:
    """`base` with one mutation.

    Raises:
        UsageError: there is no such type or variant, or the text is no value of that type.
        InvalidExperiment: the result cannot be trained; the message says why.
        PluginError: the mutation's own code fails, or changes what comparisons hold fixed.
    """
    registry = base.registry
    slot = registry.slots.get(type)
    mutation = registry.slot_mutations(type).get(value) if slot else registry.mutations.get(type)
    if mutation is not None:
        edits = _edits(base, mutation, value)
        _check_fixed(edits, mutation, registry)
        try:
            edits = followed(base, edits)
        except InvalidExperiment as error:
            raise _refused(base, mutation, value, error) from error
    elif slot is not None and _is_mutable(slot):
        edits = _choose(base, slot, value)
    else:
        raise _unknown_type(registry, type, value)
    abbreviation = (slot or registry.mutations[type]).abbreviation or type
    short = f"{abbreviation}_{value if slot else _in_a_name(value)}"
    name = short if base.name == BASELINE.stem else f"{base.name}+{short}"
    document = edited(base, edits, f"{type} {value}", Place(""))
    document.data.pop("name", None)
    try:
        experiment = assemble([document], registry, base.project, name=name)
    except InvalidExperiment as error:
        lines = "\n" if "\n" in error.message else " "
        raise InvalidExperiment(f"{type} {value} on {base.name} cannot be trained:{lines}{error.message}") from error
    if mutation is not None:
        _check_budget(base, experiment, type)
    return Mutated(base, type, value, experiment)


def value_missing(registry: Registry, type: str) -> UsageError:
    """The error for a mutation type without a value."""
    if type not in mutation_types(registry):
        return _unknown_type(registry, type, "VARIANT")
    values = [row.value for row in list_mutations(registry) if row.type == type]
    if type in registry.slots:
        return UsageError(f"say which {type}", f"known: {', '.join(values)}")
    return UsageError(f"say which value of {type}", f"for example: foundry mutate {type} {values[0]}")


def mutation_types(registry: Registry) -> list[str]:
    """The slots that can be mutated, and the other types."""
    return [slot.name for slot in registry.slots.values() if _is_mutable(slot)] + [*registry.mutations]


def list_mutations(registry: Registry) -> list[Listed]:
    """Every type with its values: slots with all their variants and shorthands, then the others with an example."""
    rows = [row for slot in filter(_is_mutable, registry.slots.values()) for row in _choices(slot, registry)]
    for type, mutation in registry.mutations.items():
        rows.append(Listed(type, mutation.example, mutation.summary, registry.type_owner(type)))
    return rows


def list_fixed(registry: Registry) -> list[Listed]:
    """What can be chosen, but is no mutation, as two experiments must share it to be compared: datasets."""
    fixed = (slot for slot in registry.placed_slots if not _is_mutable(slot) and slot.section in registry.sections)
    return [row for slot in fixed for row in _choices(slot, registry)]


def _choices(slot: Slot, registry: Registry) -> list[Listed]:
    every: dict[str, Variant | Shorthand | Mutation] = {
        **registry.variants(slot.name),
        **registry.shorthands(slot.name),
        **registry.slot_mutations(slot.name),
    }
    return [Listed(slot.name, name, choice.summary, registry.owner(slot.name, name)) for name, choice in every.items()]


# --------------------------------------------------------------------------------------------------------------------
# What a mutation edits


def _choose(base: Experiment, slot: Slot, value: str) -> Edits:
    """Another variant, with those of the params that were written which it has too. `mha` thus drops n_kv_head."""
    shorthand = base.registry.shorthands(slot.name).get(value)
    chosen = dict(shorthand.expands_to) if shorthand else {"type": value}
    params = base.registry.variant(slot.name, chosen["type"]).params.model_fields
    written = base._provenance.explicit.get((slot.section, slot.key)) or {}
    carried = {name: item for name, item in written.items() if name in params and name not in chosen}
    return {slot.path: {**chosen, **carried}}


def _edits(base: Experiment, mutation: Mutation, value: str) -> Edits:
    what = f"{mutation.slot} {value}" if mutation.slot else f"{mutation.type} {value}"
    try:
        edits = mutation.edit(base.plain(), value)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from error
    except InvalidExperiment as error:
        raise _refused(base, mutation, value, error) from error
    except FAULTS as error:
        raise PluginError(f"{what}: the mutation failed: {described(error)}") from error
    if not (isinstance(edits, Mapping) and all(isinstance(path, str) for path in edits)):
        raise PluginError(f"{what}: the mutation returned {edits!r}, not a mapping of dotted paths")
    return edits


def _refused(base: Experiment, mutation: Mutation, value: str, error: InvalidExperiment) -> InvalidExperiment:
    """The error, with the nearest values that make another experiment that can be trained."""

    def makes(edits: Edits) -> bool:
        return edit(base, edits, "a try").identity != base.identity

    hint = error.hint or tries(base, mutation.edit, value, makes)
    return InvalidExperiment(f"{mutation.slot or mutation.type} {value}: {error.message}", hint)


# --------------------------------------------------------------------------------------------------------------------
# What comparisons hold fixed


def _is_mutable(slot: Slot) -> bool:
    return slot.placed and slot.name not in FIXED_SLOTS


def is_held_fixed(key: str, registry: Registry) -> bool:
    """Whether two experiments must share this setting to be compared."""
    slots = [slot.path for slot in registry.slots.values() if _is_mutable(slot)]
    return _is_in(key, FIXED) and not _is_in(key, slots)


def _check_fixed(edits: Edits, mutation: Mutation, registry: Registry) -> None:
    for key in edits:
        if is_held_fixed(key, registry):
            named = (mutation.slot, mutation.type)
            owner = registry.owner(*named) if mutation.slot else registry.type_owner(mutation.type)
            raise PluginError(
                f"mutation {mutation.type} ({owner}) edits {key}, which two experiments must share to be compared"
            )


def _is_in(key: str, paths: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{path}.") for path in paths)


def _check_budget(base: Experiment, mutated: Experiment, type: str) -> None:
    def spent(experiment: Experiment) -> dict[str, float | None]:
        budget: dict[str, float | None] = {name: getattr(experiment.training, name) for name in BUDGETS}
        if experiment.training.max_iters is not None:
            budget["max_iters"] = experiment.training.max_iters * tokens_per_step(experiment)
        return budget

    def tokens_per_step(experiment: Experiment) -> int:
        return experiment.training.batch_size * experiment.model_args.block_size

    before, after = spent(base), spent(mutated)
    for budget in BUDGETS:
        old, new = before[budget], after[budget]
        slack = tokens_per_step(mutated) if budget == "max_iters" else 0
        if (old is None) != (new is None) or abs((old or 0) - (new or 0)) > slack:
            raise PluginError(f"mutation {type} changes the budget, which two experiments must share to be compared")


# --------------------------------------------------------------------------------------------------------------------
# Words


def _unknown_type(registry: Registry, type: str, value: str) -> UsageError:
    from difflib import get_close_matches

    known = mutation_types(registry)
    if type in (*FIXED, *FIXED_SLOTS, *BUDGETS):
        return UsageError(
            f"{type} is not a mutation: two experiments must share it to be comparable",
            "set it in the experiment file, or with --set",
        )
    near: list[str] = []
    for slot in filter(_is_mutable, registry.slots.values()):
        names = [*registry.variants(slot.name), *registry.shorthands(slot.name)]
        near += [f"{slot.name} {match}" for match in get_close_matches(type.lower(), names, n=1, cutoff=0.8)]
    near = near or [f"{match} {value}" for match in get_close_matches(type.lower(), known, n=2)]
    hint = f"did you mean: {', '.join(near)}\n  " if near else ""
    return UsageError(f"there is no mutation type {type!r}", f"{hint}known: {', '.join(known)}")


def _in_a_name(value: str) -> str:
    """How a value stands in a file name: numbers in one spelling, so that 3e-4 and 0.0003 are the same file."""
    parts = [part for part in re.split(r"[^A-Za-z0-9.+-]+", value) if part]
    meant = [scalar(part) for part in parts]
    return "_".join(
        number(each) if isinstance(each, int | float) and not isinstance(each, bool) else part
        for part, each in zip(parts, meant, strict=True)
    )
