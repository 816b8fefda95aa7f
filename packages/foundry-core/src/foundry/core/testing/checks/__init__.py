"""The checks of each slot. A check is a function of a `Case`; its first line says what a model relies on."""

from collections.abc import Callable, Iterator
from types import ModuleType

from foundry.core.contracts import OptionalParams
from foundry.core.testing.case import Case
from foundry.core.testing.checks import (
    attention,
    layers,
    losses,
    objectives,
    optimizers,
    residuals,
    scaling,
    schedules,
    settings,
    tasks,
)

Check = Callable[[Case], None]

BASIC = (settings.BASIC, objectives.BASIC, tasks.BASIC)
"""What fails here fails in the checks that follow, too, and is worth telling once."""


def checks_of(case: Case) -> Iterator[tuple[str, Check]]:
    """(name, check) of everything that a variant of this case's slot must do."""
    for module in (settings, *modules_of(case)):
        for name in module.CHECKS:
            yield name, getattr(module, name)


def modules_of(case: Case) -> list[ModuleType]:
    """The modules that hold the checks of its slot; none where only the settings of its variants are tried."""
    match case.slot:
        case "attention":
            return [layers, attention]
        case "position" if getattr(case.params, "acts_on", "nothing") != "embeddings":
            return [layers, attention]
        case "canon" if isinstance(case.params, OptionalParams) and case.params.has_part(case.dims):
            return [layers, attention]
        case "ffn" | "norm" | "activation" | "position" | "canon" | "value_embedding" | "skip":
            return [layers]
        case "residual":
            return [layers, residuals]
        case "loss":
            return [losses]
        case "objective":
            return [objectives]
        case "optimizer":
            return [optimizers]
        case "scaling":
            return [scaling]
        case "schedule":
            return [schedules]
        case "task":
            return [tasks]
    return []
