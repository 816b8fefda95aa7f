"""The short ways to write an experiment, rewritten to the one long way, document by document, before documents merge.

attention: gqa_2kv            ->  attention: {type: gqa, n_kv_head: 2}      a shorthand
dataset: notes.txt            ->  dataset: {type: text, path: notes.txt}    what a text means to a variant
training.dataset: stdlib      ->  data.dataset: {type: stdlib}              another place for a choice
model_args.n_kv_head: 2       ->  model_args.attention.n_kv_head: 2         another place for a setting of one
"""

from __future__ import annotations

from typing import Any

from foundry.core.config.document import MAX_FAULTS, Document, Fault, Path
from foundry.core.contracts import PluginError, UsageError
from foundry.core.registry import Registry


def desugar(document: Document, registry: Registry) -> list[Fault]:
    """Rewrite `document` in place; what cannot be rewritten is dropped from it and reported.

    Raises:
        PluginError: an unknown variant may be one that a broken plugin has.
    """
    faults: list[Fault] = []
    for section in [*registry.sections, "layers"]:
        if section in document.data and document.data[section] is None:  # `training:` with nothing under it
            document.data[section] = {}
    moved = moves(registry)
    choices = {(slot.section, slot.key) for slot in registry.placed_slots}
    for old, new in moved.items():
        if new in choices:
            _move(document, old, new, faults)
    for path, slot in slot_paths(document, registry):
        _expand(document, path, slot, registry, faults)
    for old, new in moved.items():
        if new not in choices:
            _move(document, old, new, faults)
    return faults


def moves(registry: Registry) -> dict[Path, Path]:
    """`Registry.aliases`, as paths."""
    return {tuple(old.split(".")): tuple(new.split(".")) for old, new in registry.aliases.items()}


def long_way(path: Path, registry: Registry) -> Path:
    """Where what stands at `path` goes."""
    for old, new in moves(registry).items():
        if path[: len(old)] == old:
            return (*new, *path[len(old) :])
    return path


def moved_settings(document: Document, path: Path, registry: Registry) -> list[str]:
    """The settings of the choice at `path` that were written elsewhere, by an alias."""
    places = {str(new[-1]): document.places.get(new) for new in moves(registry).values() if new[:-1] == path}
    return [name for name, place in places.items() if place and place.key and document.get((*path, name)) is not None]


def slot_paths(document: Document, registry: Registry) -> list[tuple[Path, str]]:
    """Every place of a document that may hold a choice, and the slot it is a choice for."""
    found: list[tuple[Path, str]] = []
    for slot in registry.placed_slots:
        path = (slot.section, slot.key)
        names = document.get(path) if slot.named else None
        found += [((*path, name), slot.name) for name in names] if isinstance(names, dict) else []
        found += [] if slot.named else [(path, slot.name)]
    layers = document.get(("layers",))
    for key in layers if isinstance(layers, dict) else ():
        found += [(("layers", key, slot.key), slot.name) for slot in registry.placed_slots if slot.per_layer]
    return found


def _move(document: Document, old: Path, new: Path, faults: list[Fault]) -> None:
    missing = object()
    value = document.get(old, missing)
    if value is missing:
        return
    holder = document.get(new, missing)
    for depth in range(1, len(new)):
        if not isinstance(document.get(new[:depth], {}), dict):  # reported when it is validated
            document.drop(old)
            return
    if holder is missing:
        document.move(old, new)
        return
    if holder != value:
        other = document.fault(new, "").key
        faults.append(document.fault(old, f"{value!r} contradicts {other}: {holder!r}; give one of them"))
    elif old[0] != new[0]:
        faults.append(document.fault(old, f"is the same as {'.'.join(map(str, new))}; give one of them"))
    document.drop(old)


def _expand(document: Document, path: Path, slot: str, registry: Registry, faults: list[Fault]) -> None:
    """A name, a shorthand, or a mapping whose `type` is one -> a mapping whose `type` is a variant."""
    missing = object()
    choice = document.get(path, missing)
    if registry.slots[slot].named and choice is None:  # `tasks: {recall: }`, whose name says what it is
        document.set(path, {})
        return
    if choice is missing or (choice is None and not registry.slots[slot].default):
        return
    names = [*registry.variants(slot), *registry.shorthands(slot)]
    named, written = choice, path
    if isinstance(choice, dict):
        if "type" not in choice:
            return
        named, written = choice["type"], (*path, "type")
    if not isinstance(named, str):
        what = "null" if named is None else f"{named!r}"
        faults.append(document.fault(written, f"got {what}; needs the name of one of {', '.join(names)}"))
    elif named in registry.slot_mutations(slot):
        way = f"`foundry mutate {slot} {named}` writes what it sets"
        faults.append(document.fault(written, f"{named} is a mutation, not a variant of {slot}; {way}"))
    elif choice == named and (meant := _meant(registry, slot, named)):
        document.set(path, meant)
        return
    elif named not in names:
        brief = f"{slot} has no variant {named!r}"  # guessing takes 0.3 ms, and thousands may be wrong
        faults.append(document.fault(written, _unknown(registry, slot, named) if len(faults) < MAX_FAULTS else brief))
    else:
        shorthand = registry.shorthands(slot).get(named)
        expanded = dict(shorthand.expands_to) if shorthand else {"type": named}
        document.set(
            path, expanded | {k: v for k, v in choice.items() if k != "type"} if isinstance(choice, dict) else expanded
        )
        return
    document.drop(path)


def _meant(registry: Registry, slot: str, text: str) -> dict[str, Any]:
    """The choice that a text stands for which is no name of the slot's; empty where it means nothing."""
    known = registry.variants(slot)
    if text in known or text in registry.shorthands(slot):
        return {}
    for name, variant in known.items():
        settings = variant.params.of_text(text)
        if settings is not None:
            return {"type": name, **settings}
    return {}


def _unknown(registry: Registry, slot: str, name: str) -> str:
    error = registry.unknown_variant(slot, name)
    if isinstance(error, PluginError):
        raise error
    assert isinstance(error, UsageError)
    return f"{error.message}; {error.hint}".replace("\n  ", "; ")
