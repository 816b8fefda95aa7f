"""Documents -> an experiment, and an experiment with other settings -> another one."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

from foundry.core.config.document import Document, Fault, Place, dotted, raise_faults
from foundry.core.config.document import Path as Key
from foundry.core.config.experiment import Experiment, Provenance
from foundry.core.config.merge import lay
from foundry.core.config.resolve import name_choices, resolve
from foundry.core.config.validate import validate
from foundry.core.config.written import read_written
from foundry.core.contracts import DROP, Edits, InvalidExperiment, PluginError
from foundry.core.mutations import change_width
from foundry.core.registry import Registry


def assemble(
    documents: list[Document], registry: Registry, project: Path, *, name: str = "", path: Path | None = None
) -> Experiment:
    """The experiment that documents make, each laid over those before it.

    Args:
        name: what it is called unless they say so.
    """
    sources = [document.place(()).source for document in documents]
    read_written(documents, registry)
    explicit, faults = lay(documents, registry)
    name_choices(explicit, registry)
    resolved, contradictions = resolve(explicit, registry)
    if name:
        resolved.data.setdefault("name", name)
    faults += contradictions
    experiment, invalid = validate(resolved, registry, known=faults)
    raise_faults(faults + invalid, sources)
    assert experiment is not None
    experiment._provenance = Provenance(registry, project, explicit, path)
    raise_faults(list(_base_that_is_no_model(experiment, resolved)), sources)
    return experiment


def edit(base: Experiment, edits: Edits, source: str) -> Experiment:
    """`base` with other settings and the same name: what a command does to its own copy, such as a trial's seed.
    Nothing is held fixed.

    Args:
        source: who asks, for messages.

    Raises:
        InvalidExperiment: the result cannot be trained.
    """
    return assemble([edited(base, edits, source, Place(source))], base.registry, base.project, name=base.name)


def edited(base: Experiment, edits: Edits, source: str, place: Place) -> Document:
    """What was written of `base`, with other settings.

    Args:
        source: who asks, for messages;  place: where the settings are said to stand.
    """
    explicit = base._provenance.explicit
    document = Document(deepcopy(explicit.data), dict(explicit.places))
    for key, value in edits.items():
        path: Key = tuple(key.split("."))
        for depth in range(1, len(path)):
            if not isinstance(document.get(path[:depth], {}), dict):
                raise PluginError(f"{source}: the mutation edits {key}, but {dotted(path[:depth])} holds no keys")
        document.forget(path)
        document.drop(path) if value is DROP else document.set(path, value, place)
    return document


def as_wide_as(experiment: Experiment, n_embd: int) -> Experiment:
    """What `mutate width` makes of it, under the same name.

    Raises:
        InvalidExperiment: there is no such model.
    """
    return edit(experiment, change_width(experiment.plain(), str(n_embd)), f"width {n_embd}")


def _base_that_is_no_model(experiment: Experiment, document: Document) -> Iterator[Fault]:
    """Initial weights follow from a model as wide as the base: there must be one."""
    dims = experiment.dims()
    base = experiment.model_args.scaling.base(dims)
    if base.n_embd == dims.n_embd:
        return
    try:
        as_wide_as(experiment, base.n_embd)
    except InvalidExperiment as error:
        why = "; ".join([*error.message.splitlines(), *([error.hint] if error.hint else [])])
        yield document.fault(("model_args", "scaling", "base_n_embd"), f"such a base is no model: {why}")
