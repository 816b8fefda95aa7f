"""From the merged document to one in which every choice is complete: names its variant, and has the params that a
layer's choice takes over from the model's."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from foundry.core.config.document import Document, Fault
from foundry.core.config.merge import chosen_type
from foundry.core.config.schema import BUDGETS
from foundry.core.config.sugar import moved_settings, slot_paths
from foundry.core.registry import Registry
from foundry.core.registry.table import NAME


def name_choices(document: Document, registry: Registry) -> None:
    """Write the variant's name into each choice of the model that goes without, so that it means the same wherever the
    document goes: `n_kv_head: 2` alone becomes a `gqa`. A layer's choice goes without, and follows the model's."""
    for path, slot in slot_paths(document, registry):
        choice = document.get(path)
        if path[0] != "layers" and isinstance(choice, dict) and "type" not in choice:
            document.set(path, {"type": chosen_type(document, path, slot, registry), **choice})


def resolve(merged: Document, registry: Registry) -> tuple[Document, list[Fault]]:
    """The document to validate, a new one, and what is wrong with it beyond any field."""
    document = Document(deepcopy(merged.data), dict(merged.places))
    faults: list[Fault] = []
    for path, slot in slot_paths(document, registry):
        parent, choice = document.get(path[:-1], {}), document.get(path)
        is_present = isinstance(parent, dict) and path[-1] in parent
        if not isinstance(parent, dict) or (is_present and not isinstance(choice, dict)):
            continue  # reported when it is validated
        if path[0] == "layers":
            if is_present:
                document.set(path, _on_top(document, path, slot, choice, registry))
            continue
        name = chosen_type(document, path, slot, registry)
        if registry.slots[slot].named and (fault := _misnamed(slot, str(path[-1]), name, registry)):
            faults.append(document.fault(path, fault))
            document.drop(path)
        elif name:
            registry.variant(slot, name)  # a default may be a plugin's that is broken
            default = registry.shorthands(slot).get(registry.slots[slot].default) if not is_present else None
            document.set(path, {**(default.expands_to if default else {}), "type": name, **(choice or {})})
    _drop_moved(document, registry)
    _settle_budget(document, faults)
    return document, faults


def _misnamed(slot: str, own: str, type: str, registry: Registry) -> str:
    """What is wrong with a choice that has a name of its own; empty: nothing."""
    if not NAME.fullmatch(own):
        return "a name is lower-case letters, digits and _, beginning with a letter"
    if type not in registry.variants(slot):
        return f"there is no {slot} {type}; say which it is, as `type:`, one of {', '.join(registry.variants(slot))}"
    return ""


def chosen(document: Document, registry: Registry) -> dict[str, frozenset[str]]:
    """Slot -> the variants that a resolved document names in it."""
    named: dict[str, set[str]] = {slot: set() for slot in registry.slots}
    for path, slot in slot_paths(document, registry):
        choice = document.get(path)
        if isinstance(choice, dict):
            named[slot].add(choice["type"])
    return {slot: frozenset(names) for slot, names in named.items()}


def _on_top(document: Document, path: Any, slot: str, choice: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """A layer's choice, on top of the model's if that is of the same variant."""
    base = document.get((registry.slots[slot].section, registry.slots[slot].key))
    name = chosen_type(document, path, slot, registry)
    inherited = base if isinstance(base, dict) and base.get("type") == name else {}
    return {**inherited, "type": name, **choice}


def _drop_moved(document: Document, registry: Registry) -> None:
    """A setting that an alias has brought to a choice which has none of it; see `rules.misplaced`."""
    for slot in registry.placed_slots:
        path = (slot.section, slot.key)
        if settings := moved_settings(document, path, registry):
            known = registry.variant(slot.name, document.get((*path, "type"))).params.model_fields
            for name in settings:
                if name not in known:
                    document.drop((*path, name))


def _settle_budget(document: Document, faults: list[Fault]) -> None:
    """Exactly one budget: max_iters where none is given."""
    training = document.get(("training",), {})
    if not isinstance(training, dict):
        return
    given = [budget for budget in BUDGETS if training.get(budget) is not None]
    for extra in given[1:]:
        faults.append(document.fault(("training", extra), f"a second budget beside {given[0]}; give one of them"))
        document.drop(("training", extra))
    if not given:
        document.drop(("training", "max_iters"))
    elif given[0] != "max_iters":
        document.set(("training", "max_iters"), None)
