"""Makes the experiment's pydantic model out of the registry: each slot's field becomes a union, told apart by `type`,
of its variants' params."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache, reduce
from operator import or_
from types import new_class
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import ConfigDict, Field, create_model

from foundry.core.config.experiment import Experiment
from foundry.core.config.schema import NOT_IDENTITY
from foundry.core.contracts import Params, Slot, Variant
from foundry.core.registry import Registry

Chosen = Mapping[str, frozenset[str]]
"""Slot -> the variants that an experiment names there."""


@cache
def choice_class(variant: Variant) -> type[Params]:
    """The variant's params with its name as `type`, and the `Variant` itself as the class attribute `variant`."""
    annotations = {"type": Literal[variant.name], "variant": ClassVar[Variant]}
    namespace = {"__doc__": variant.summary, "type": variant.name, "variant": variant}
    return _subclass(f"{variant.slot}_{variant.name}", variant.params, annotations, namespace)


def experiment_model(registry: Registry, chosen: Chosen | None = None) -> type[Experiment]:
    """The schema of an experiment.

    Args:
        chosen: only these variants can be validated, which takes a tenth of the time; None = all there are.
    """
    return _experiment_model(registry, None if chosen is None else frozenset(chosen.items()))


@lru_cache(maxsize=128)  # to make one takes ten times as long as to validate with it, and a search makes thousands
def _experiment_model(registry: Registry, choices: frozenset[tuple[str, frozenset[str]]] | None) -> type[Experiment]:
    chosen: Chosen | None = None if choices is None else dict(choices)
    sections: dict[str, dict[str, Any]] = {name: {} for name in registry.sections}
    for slot in registry.placed_slots:
        sections.setdefault(slot.section, {})[slot.key] = _field(registry, slot, chosen)
    fields: dict[str, Any] = {}
    for name, slots in sections.items():
        owner = registry.sections.get(name)
        base = owner.params if owner else Params
        summary = (owner.summary if owner else "") or (base.__doc__ or "").partition("\n")[0]
        model = _section(name, base, slots)
        fields[name] = (model, Field(default_factory=model, description=summary))
    layer: Any = _section(
        "layer", Params, {s.key: _field(registry, s, chosen, layer=True) for s in per_layer(registry)}
    )
    fields["layers"] = (
        dict[str, layer],
        Field(default_factory=dict, description="other choices for some layers; keys: N, N-M, N-, comma lists, SSSL/S"),
    )
    return create_model("Experiment", __base__=Experiment, **fields)


def per_layer(registry: Registry) -> list[Slot]:
    return [slot for slot in registry.placed_slots if slot.per_layer]


def _section(name: str, base: type[Params], slots: Mapping[str, tuple[Any, Any]]) -> type[Params]:
    annotations = {key: annotation for key, (annotation, _) in slots.items()}
    return _subclass(name, base, annotations, {key: field for key, (_, field) in slots.items()})


def _subclass(
    name: str, base: type[Params], annotations: Mapping[str, Any], namespace: Mapping[str, Any]
) -> type[Params]:
    """`base` with more fields, in which numbers must be finite."""
    # Not by pydantic's create_model, which takes a config or a base, but not both.
    body: dict[str, Any] = {"__module__": base.__module__, "__doc__": base.__doc__, "model_config": _FINITE}
    body |= {**namespace, "__annotations__": dict(annotations)}
    return cast(type[Params], new_class(name, (base,), exec_body=lambda namespace: namespace.update(body)))


_FINITE = ConfigDict(allow_inf_nan=False, defer_build=True)


def _field(registry: Registry, slot: Slot, chosen: Chosen | None, *, layer: bool = False) -> tuple[Any, Any]:
    variants = registry.variants(slot.name)
    names = variants.keys() if chosen is None else chosen.get(slot.name, frozenset())
    classes = [choice_class(variants[name]) for name in variants if name in names]
    extra = None if slot.identity else NOT_IDENTITY
    if not classes:
        return (dict[str, Params], Field({}, json_schema_extra=extra)) if slot.named else (None, None)
    annotation: Any = classes[0]
    if len(classes) > 1:
        annotation = Annotated[reduce(or_, classes), Field(discriminator="type")]
    if slot.named:
        many = dict[str, annotation]
        return (many, Field(default_factory=dict, description=slot.summary, json_schema_extra=extra))
    if layer or slot.default not in variants:
        return (annotation | None, Field(None, description=slot.summary))
    if slot.default not in names:
        return (annotation, Field(description=slot.summary))
    return (annotation, Field(default_factory=choice_class(variants[slot.default]), description=slot.summary))
