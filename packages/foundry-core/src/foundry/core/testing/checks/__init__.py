"""The checks of each slot. A check is a function of a `Case`; its first line says what a model relies on."""

from collections.abc import Callable, Iterator

from foundry.core.contracts import OptionalParams
from foundry.core.testing.case import Case
from foundry.core.testing.checks import attention, layers, losses, optimizers, residuals, scaling, schedules, settings

Check = Callable[[Case], None]


def checks_of(case: Case) -> Iterator[tuple[str, Check]]:
    """(name, check) of everything that a variant of this case's slot must do."""
    modules = [settings]
    match case.slot:
        case "attention":
            modules += [layers, attention]
        case "position" if getattr(case.params, "acts_on", "nothing") != "embeddings":
            modules += [layers, attention]
        case "canon" if isinstance(case.params, OptionalParams) and case.params.has_part(case.dims):
            modules += [layers, attention]
        case "ffn" | "norm" | "activation" | "position" | "canon" | "value_embedding" | "skip":
            modules += [layers]
        case "residual":
            modules += [layers, residuals]
        case "loss":
            modules += [losses]
        case "optimizer":
            modules += [optimizers]
        case "scaling":
            modules += [scaling]
        case "schedule":
            modules += [schedules]
    for module in modules:
        for name in module.CHECKS:
            yield name, getattr(module, name)
