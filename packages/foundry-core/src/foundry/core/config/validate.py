"""A resolved document -> an `Experiment`, or everything that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy

from pydantic import ValidationError

from foundry.core.config.compose import experiment_model
from foundry.core.config.document import MAX_FAULTS, Document, Fault
from foundry.core.config.experiment import Experiment
from foundry.core.config.resolve import chosen, resolve
from foundry.core.config.rules import contradictions
from foundry.core.registry import Registry


def validate(
    document: Document, registry: Registry, known: Sequence[Fault] = ()
) -> tuple[Experiment | None, list[Fault]]:
    """Each field by itself, by pydantic; then what fields mean together, as far as they are valid.

    Args:
        known: faults found before; a contradiction that only follows from one of them is not reported.
    """
    faults: list[Fault] = []
    try:
        experiment = _parse(document, registry)
    except ValidationError as error:
        from foundry.core.config.explain import explain

        faults = explain(error, document, registry)
        repaired = _without(document, faults, registry) if len(faults) <= MAX_FAULTS else None
        if repaired is None:
            return None, faults
        experiment = repaired
    wrong = [fault.path for fault in (*known, *faults)]
    return experiment, faults + contradictions(experiment, document, registry, wrong)


def _parse(document: Document, registry: Registry) -> Experiment:
    model = experiment_model(registry, chosen(document, registry))
    # As JSON, so that strictness forbids text for a number but not a list for a tuple, or text for a path.
    return model.model_validate_json(json.dumps(document.data), strict=True)


def _without(document: Document, faults: Sequence[Fault], registry: Registry) -> Experiment | None:
    """The experiment with defaults for all that is wrong, to look for further faults with; None if that won't do."""
    remains = Document(deepcopy(document.data), dict(document.places))
    for fault in faults:
        remains.drop(fault.path)
    try:
        return _parse(resolve(remains, registry)[0], registry)
    except ValidationError:
        return None
