"""Foundry's built-in variants as a plugin: what the entry point `modules` of the group `foundry` names."""

from foundry.core.contracts import Mutation, Shorthand, Variant, hookimpl
from foundry.modules import (
    activation,
    attention,
    canon,
    ffn,
    loss,
    norm,
    optimizer,
    position,
    residual,
    scaling,
    schedule,
    skip,
    value_embedding,
)

FOUNDRY_API = 1


@hookimpl
def foundry_variants() -> list[Variant]:
    layers = (attention, ffn, norm, activation, position, residual, canon, value_embedding, skip)
    training = (scaling, loss, optimizer, schedule)
    return [variant for slot in (*layers, *training) for variant in slot.VARIANTS]


@hookimpl
def foundry_shorthands() -> list[Shorthand]:
    return [*attention.SHORTHANDS, *ffn.SHORTHANDS, *canon.SHORTHANDS]


@hookimpl
def foundry_mutations() -> list[Mutation]:
    return [*attention.MUTATIONS, *norm.MUTATIONS]
