"""What the lab contributes: executors, which train trials, and proposers of a search. Imports no torch."""

from foundry.core.contracts import Slot, Variant, hookimpl
from foundry.lab.search import proposers
from foundry.lab.trials import executors

FOUNDRY_API = 1


@hookimpl
def foundry_slots() -> list[Slot]:
    return [executors.SLOT, proposers.SLOT]


@hookimpl
def foundry_variants() -> list[Variant]:
    return [*executors.VARIANTS, *proposers.VARIANTS]
