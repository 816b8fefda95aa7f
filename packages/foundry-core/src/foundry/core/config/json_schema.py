"""The schema of experiment files for editors, with every short way of writing that `sugar` knows."""

from __future__ import annotations

from typing import Any

from foundry.core.config.build_schema import experiment_model
from foundry.core.contracts import Params, Shorthand, Slot, Variant
from foundry.core.registry import Registry

LAYERS = r"(\d+(-\d*)?|[A-Z]+/[A-Z])"
"""`2`, `0-3`, `2-` or `SSSL/S`, see `layers.parse_layers`."""


def json_schema(registry: Registry) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what `load_experiment` reads, from everything that `registry` holds."""
    schema = experiment_model(registry).model_json_schema()
    definitions, properties = schema["$defs"], schema["properties"]
    schema["title"] = "Foundry experiment"
    layer = properties["layers"]["additionalProperties"]
    properties["layers"]["propertyNames"] = {"pattern": f"^{LAYERS}( *, *{LAYERS})*$"}
    for slot in registry.placed_slots:
        choice = _choice(slot, registry, definitions)
        section = definitions[properties[slot.section]["$ref"].rpartition("/")[2]]
        if slot.named:
            choice.pop("default", None)
            choice = {"type": "object", "additionalProperties": choice, "description": slot.summary}
        section["properties"][slot.key] = choice
        section["required"] = [key for key in section.get("required", ()) if key != slot.key]
        if slot.per_layer:
            own = {key: value for key, value in choice.items() if key != "default"}
            definitions[layer["$ref"].rpartition("/")[2]]["properties"][slot.key] = own
    _add_sugar(schema, registry)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _choice(slot: Slot, registry: Registry, definitions: dict[str, Any]) -> dict[str, Any]:
    """A name, or a mapping with or without one."""
    variants, shorthands = registry.variants(slot.name), registry.shorthands(slot.name)
    every: dict[str, Variant | Shorthand] = {**variants, **shorthands}
    for name in variants:
        same = [short for short, shorthand in shorthands.items() if shorthand.expands_to["type"] == name]
        definition = definitions[f"{slot.name}_{name}"]
        definition["properties"]["type"] = {"enum": [name, *same], "default": name}
    names = [{"const": name, "description": choice.summary} for name, choice in every.items()]
    mappings = [{"$ref": f"#/$defs/{slot.name}_{name}"} for name in variants]
    texts = [{"type": "string"}] if any(map(_takes_texts, variants.values())) else []
    choice = {"description": slot.summary, "anyOf": [*names, *mappings, *texts]}
    return {**choice, "default": slot.default} if slot.default else choice


def _takes_texts(variant: Variant) -> bool:
    """Whether a text that is no name may choose it."""
    return any("of_text" in vars(base) for base in variant.params.__mro__ if base is not Params)


def _add_sugar(schema: dict[str, Any], registry: Registry) -> None:
    definitions, properties = schema["$defs"], schema["properties"]
    properties["extends"] = {
        "type": "string",
        "description": "path of another experiment file, relative to this one, that this one is laid over",
    }

    def keys(of: str) -> dict[str, Any]:
        found: dict[str, Any] = definitions[properties[of]["$ref"].rpartition("/")[2]]["properties"]
        return found

    for old, new in registry.aliases.items():
        (section, key), (owner, slot, *setting) = old.split("."), new.split(".")
        if owner not in properties or section not in properties:
            continue
        if not setting:
            keys(section)[key] = {**keys(owner)[slot], "description": f"short for {new}"}
            continue
        name = next(each.name for each in registry.placed_slots if each.path == f"{owner}.{slot}")
        having = next(each for each, it in registry.variants(name).items() if setting[0] in it.params.model_fields)
        meaning = f"short for {slot}.{setting[0]}; without a choice of {name}, it chooses {having}"
        field = definitions[f"{name}_{having}"]["properties"][setting[0]]
        keys(section)[key] = {**{k: v for k, v in field.items() if k != "default"}, "description": meaning}
