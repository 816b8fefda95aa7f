"""A resolved document -> an `Experiment`, or everything that is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from foundry.core.config.build_schema import experiment_model
from foundry.core.config.contradictions import contradictions
from foundry.core.config.document import MAX_FAULTS, Document, Fault, Path, items
from foundry.core.config.experiment import Experiment
from foundry.core.config.resolve import chosen, resolve
from foundry.core.registry import Registry

_SURROGATE = re.compile("[\ud800-\udfff]")


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

        faults = _no_unicode(document) or explain(error, document, registry)
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


def _no_unicode(document: Document) -> list[Fault]:
    """The texts that hold bytes which are none, as Python takes them in from a command line or from a file's name."""

    def look(path: Path, value: Any) -> Iterator[Fault]:
        for text in (*path[-1:], value):
            if isinstance(text, str) and (found := _SURROGATE.search(text)):
                yield document.fault(path, f"{text!a} is no Unicode text, because of {found[0]!a}")
        for key, item in items(value):
            yield from look((*path, key), item)

    return list(look((), document.data))


def _without(document: Document, faults: Sequence[Fault], registry: Registry) -> Experiment | None:
    """The experiment with defaults for all that is wrong, to look for further faults with; None if that won't do."""
    remains = Document(deepcopy(document.data), dict(document.places))
    for fault in faults:
        remains.drop(fault.path)
    try:
        return _parse(resolve(remains, registry)[0], registry)
    except ValidationError:
        return None
