"""An experiment's model in another width; and whether there is one in the width of its scale rule's base."""

from __future__ import annotations

from collections.abc import Iterator

from foundry.core.config.document import Document, Fault
from foundry.core.config.experiment import Experiment
from foundry.core.config.mutate import edit
from foundry.core.contracts import InvalidExperiment
from foundry.core.mutations import change_width


def as_wide_as(experiment: Experiment, n_embd: int) -> Experiment:
    """What `mutate width` makes of it, under the same name.

    Raises:
        InvalidExperiment: there is no such model.
    """
    return edit(experiment, change_width(experiment.plain(), str(n_embd)), f"width {n_embd}")


def base_that_is_no_model(experiment: Experiment, document: Document) -> Iterator[Fault]:
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
