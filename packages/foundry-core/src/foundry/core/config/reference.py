"""The reference of experiment files as Markdown, made from their JSON Schema: `foundry config reference`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from foundry.core.config.json_schema import json_schema
from foundry.core.registry import Registry

HEAD = """# All settings of an experiment

`foundry config reference` writes this page from the schema that checks experiments. Everything has a default, so an
experiment holds only what differs from it. `--set SECTION.KEY=VALUE` sets a value for one command, `foundry config
show` prints a whole experiment, and with `foundry config schema` an editor completes and checks one.

A choice of a part is a name, `attention: mla`, or a name with settings, `attention: {type: gqa, n_kv_head: 2}`. Plugins
add names; this page has Foundry's own.
"""
KINDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "null": "null",
    "object": "a mapping",
    "array": "a list",
}
SECTIONS = ("model_args", "training", "data", "eval", "logging", "checkpoints")


def reference(registry: Registry) -> str:
    """The page: the keys of each section, and then, for each choice, its names with their settings."""
    schema = json_schema(registry)
    return "\n".join([HEAD, *_top(schema), *_sections(schema, registry), *_slots(schema, registry)]) + "\n"


def _top(schema: Mapping[str, Any]) -> Iterator[str]:
    alone = {key: value for key, value in schema["properties"].items() if key not in SECTIONS}
    yield "## Outside the sections\n"
    yield from _table(alone, schema["$defs"])


def _sections(schema: Mapping[str, Any], registry: Registry) -> Iterator[str]:
    definitions, moved = schema["$defs"], set(registry.aliases)
    for section in SECTIONS:
        properties = definitions[schema["properties"][section]["$ref"].rpartition("/")[2]]["properties"]
        yield f"## {section}\n"
        yield from _table(
            {key: each for key, each in properties.items() if f"{section}.{key}" not in moved}, definitions
        )
    if moved:
        yield (
            "Some settings of a choice may also be written elsewhere: "
            + ", ".join(f"`{old}` for `{new}`" for old, new in sorted(registry.aliases.items()))
            + ".\n"
        )


def _slots(schema: Mapping[str, Any], registry: Registry) -> Iterator[str]:
    for slot in registry.placed_slots:
        variants = registry.variants(slot.name)
        if not variants:
            continue
        yield f"## {slot.path}\n"
        yield f"{_sentence(slot.summary)} {f'The default is `{slot.default}`.' if slot.default else ''}".rstrip() + "\n"
        for name, variant in variants.items():
            source = f" ({variant.reference})" if variant.reference else ""
            yield f"**`{name}`** {variant.summary}{source}\n"
            settings = schema["$defs"][f"{slot.name}_{name}"]["properties"]
            yield from _table({key: each for key, each in settings.items() if key != "type"}, schema["$defs"])
        for name, shorthand in registry.shorthands(slot.name).items():
            yield f"**`{name}`** is short for `{_flow(shorthand.expands_to)}`\n"


def _table(properties: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    if not properties:
        return
    yield "| key | value | default | what it is |\n|---|---|---|---|"
    for key, field in properties.items():
        default = f"`{_flow(field['default'])}`" if "default" in field else ""
        yield f"| `{key}` | {_kind(field, definitions)} | {default} | {_cell(field.get('description', ''))} |"
    yield ""


def _kind(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in field:
        if any("$ref" in each and "const" in other for each in field["anyOf"] for other in field["anyOf"]):
            return "a choice, see below"
        return " or ".join(dict.fromkeys(_kind(each, definitions) for each in field["anyOf"]))
    if "$ref" in field:
        properties = definitions[field["$ref"].rpartition("/")[2]].get("properties", {})
        return (
            f"`{{type: {properties['type']['const']}, ...}}`" if "const" in properties.get("type", {}) else "a mapping"
        )
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{each}`" for each in field["enum"])
    return f"{KINDS.get(str(field.get('type')), 'anything')}{_range(field)}"


def _range(field: Mapping[str, Any]) -> str:
    words = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    said = [words[key].format(f"{field[key]:,}") for key in words if key in field]
    return f" {' '.join(said)}" if said else ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


def _flow(value: Any) -> str:
    from foundry.core.config.write_yaml import flow

    return flow(value) if not isinstance(value, str) or value else json.dumps(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
