"""What foundry-data contributes. Imports neither torch nor numpy."""

from __future__ import annotations

from foundry.core.contracts import Section, Slot, Variant, hookimpl
from foundry.data.params import SLOTS, VARIANTS, DataParams

FOUNDRY_API = 1


@hookimpl
def foundry_slots() -> list[Slot]:
    return SLOTS


@hookimpl
def foundry_variants() -> list[Variant]:
    return VARIANTS


@hookimpl
def foundry_sections() -> list[Section]:
    return [Section("data", DataParams, "foundry.data.rows:open_data", "what the model is trained and validated on")]
