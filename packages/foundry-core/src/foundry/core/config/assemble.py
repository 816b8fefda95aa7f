"""Documents -> an experiment, and an experiment with other settings -> another one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from foundry.core.blame import FAULTS
from foundry.core.config.command_line import read_written
from foundry.core.config.contradictions import misplaced
from foundry.core.config.document import Document, Fault, Place, dotted, raise_faults
from foundry.core.config.document import Path as Key
from foundry.core.config.experiment import Experiment, Provenance
from foundry.core.config.merge import lay
from foundry.core.config.model_spec import following
from foundry.core.config.resolve import name_choices, resolve
from foundry.core.config.validate import validate
from foundry.core.contracts import DROP, Edits, InvalidExperiment, Params, PluginError
from foundry.core.mutations import change_width
from foundry.core.registry import Registry

SIZES = ("n_layer", "n_head", "n_embd", "head_dim", "block_size")
"""Of model_args: what other settings may follow."""
NEAR = 1025
"""How far from a size that there is no model of another one is looked for."""


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
    if experiment is not None:
        experiment._provenance = Provenance(registry, project, explicit, path)
        invalid += misplaced(experiment, explicit)
    raise_faults(faults + invalid, sources)
    assert experiment is not None
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


def followed(base: Experiment, edits: Edits) -> Edits:
    """The edits, with what follows from them where they change the model's sizes: each choice says what of its own.

    Raises:
        InvalidExperiment: a choice cannot follow.
        PluginError: its code fails.
    """
    args, old = base.model_args, base.dims()
    wanted = {size: edits.get(f"model_args.{size}", getattr(args, size)) for size in SIZES}
    sizes = {size: type(args).model_fields[size].default if value is DROP else value for size, value in wanted.items()}
    head_dim = sizes.pop("head_dim")
    if any(type(size) is not int or size < 1 for size in (*sizes.values(), 1 if head_dim is None else head_dim)):
        return edits  # it is no size: which is said of the experiment that they make
    new = replace(old, **sizes, head_dim=head_dim or max(1, sizes["n_embd"] // sizes["n_head"]))
    if new == old:
        return edits
    found: dict[str, Any] = {}
    for path, params in choices(base):
        found |= {f"{path}.{name}": value for name, value in following(params, old, new, path).items()}
    return {**found, **edits}


def choices(experiment: Experiment) -> Iterator[tuple[str, Params]]:
    """Each choice of the model, and of each entry of `layers`, with the path at which it stands."""
    holders = {f"layers.{key}": each for key, each in experiment.layers.items()}
    for path, holder in {"model_args": experiment.model_args, **holders}.items():
        yield from ((f"{path}.{slot}", choice) for slot, choice in holder if isinstance(choice, Params))


def tries(
    base: Experiment,
    change: Callable[[Mapping[str, Any], str], Edits],
    value: str,
    makes: Callable[[Edits], bool] = lambda edits: True,
) -> str:
    """`try 64 or 192`: the whole numbers nearest to `value` that a change of sizes takes. Empty where `value` is none,
    or none is near.

    Args:
        makes: whether such edits make what is wanted.
    """
    plain = base.plain()

    def is_taken(number: int) -> bool:
        try:
            return makes(followed(base, change(plain, str(number))))
        except (*FAULTS, InvalidExperiment):
            return False

    if not re.fullmatch("[0-9]{1,9}", value):
        return ""
    wanted = int(value)
    below = next((each for each in range(wanted - 1, max(0, wanted - NEAR), -1) if is_taken(each)), None)
    above = next((each for each in range(wanted + 1, wanted + NEAR) if is_taken(each)), None)
    near = " or ".join(str(each) for each in (below, above) if each is not None)
    return f"try {near}" if near else ""


def as_wide_as(experiment: Experiment, n_embd: int) -> Experiment:
    """What `mutate width` makes of it, under the same name.

    Raises:
        InvalidExperiment: there is no such model.
    """
    try:
        edits = followed(experiment, change_width(experiment.plain(), str(n_embd)))
    except InvalidExperiment as error:
        near = tries(experiment, change_width, str(n_embd))
        raise InvalidExperiment(f"width {n_embd}: {error.message}", near) from error
    return edit(experiment, edits, f"width {n_embd}")


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
