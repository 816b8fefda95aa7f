"""Lays one document over another: mappings merge key by key, anything else replaces."""

from __future__ import annotations

from typing import Any

from foundry.core.config.document import Document, Fault, Path
from foundry.core.config.schema import BUDGETS
from foundry.core.config.sugar import desugar, moved_settings
from foundry.core.registry import Registry


def lay(documents: list[Document], registry: Registry) -> tuple[Document, list[Fault]]:
    """All of them on top of each other, the last on top, and what is wrong with how they are written. Their sugar is
    gone then."""
    faults: list[Fault] = []
    merged = Document({}, {})
    for document in documents:
        faults += desugar(document, registry)
        merged = merge(merged, document, registry)
    return merged, faults


def merge(base: Document, over: Document, registry: Registry) -> Document:
    """`base` with `over` on top; both without sugar. A choice of another `type` replaces the choice below it, with all
    its params; one of the same type, or without one, merges with it. A budget replaces a budget."""
    merged = Document(base.data, dict(base.places))
    training = over.get(("training",))
    if isinstance(training, dict) and any(training.get(budget) is not None for budget in BUDGETS):
        for budget in BUDGETS:
            if not merged.place(("training", budget)).source.startswith("--set"):  # two flags contradict each other
                merged.drop(("training", budget))
    merged.data = _merge(merged, over, (), registry)
    # What was written last stands last: see `Document.fault`.
    merged.places = {path: place for path, place in merged.places.items() if path not in over.places} | over.places
    return merged


def _merge(base: Document, over: Document, path: Path, registry: Registry) -> Any:
    below, above = base.get(path), over.get(path)
    if not (isinstance(below, dict) and isinstance(above, dict)) or _is_other_choice(base, above, path, registry):
        base.forget(path)
        return above
    return {key: _merge(base, over, (*path, key), registry) if key in above else below[key] for key in below} | {
        key: above[key] for key in above if key not in below
    }


def _is_other_choice(base: Document, above: dict[str, Any], path: Path, registry: Registry) -> bool:
    slot = slot_at(path, registry)
    return slot is not None and "type" in above and above["type"] != chosen_type(base, path, slot, registry)


def slot_at(path: Path, registry: Registry) -> str | None:
    """The slot whose choice stands at `path`, if one does."""
    for slot in registry.placed_slots:
        if (path[:-1] if slot.named else path) == (slot.section, slot.key):
            return slot.name
        if slot.per_layer and len(path) == 3 and path[0] == "layers" and path[2] == slot.key:
            return slot.name
    return None


def chosen_type(document: Document, path: Path, slot: str, registry: Registry) -> str:
    """The variant that a choice means, whether it says so or not; empty for an optional slot without a choice.

    A choice without `type` is the slot's default, or what its own name says; a setting that was written elsewhere, as
    `model_args.n_kv_head`, asks for the variant that has it.
    """
    choice = document.get(path)
    if isinstance(choice, dict) and isinstance(choice.get("type"), str):
        return str(choice["type"])
    if path[0] == "layers":
        base = registry.slots[slot]
        return chosen_type(document, (base.section, base.key), slot, registry)
    if registry.slots[slot].named:
        return str(path[-1])
    default = registry.slots[slot].default
    shorthand = registry.shorthands(slot).get(default)
    default = str(shorthand.expands_to["type"]) if shorthand else default
    if settings := moved_settings(document, path, registry):
        variants = registry.variants(slot)
        having = [name for name in variants if variants[name].params.model_fields.keys() >= {*settings}]
        if default not in having and having:
            return having[0]
    return default
