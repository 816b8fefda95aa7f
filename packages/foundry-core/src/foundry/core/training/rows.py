"""The rows of an experiment, from whichever package owns the section `data`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from foundry.core.contracts import Rows
from foundry.core.run import Run, read_tokenizer

if TYPE_CHECKING:
    from foundry.core.config import Experiment


def open_rows(experiment: Experiment, run: Run | None = None, note: Callable[[str], None] | None = None) -> Rows:
    """Prepare the corpus if it never was, and open it; with `run`, by that run's own tokenizer."""
    rows: Rows = experiment.registry.sections["data"].load()(
        experiment.data,
        block_size=experiment.model_args.block_size,
        seed=experiment.seed,
        tokenizer=read_tokenizer(run, experiment) if run else None,
        progress=note,
    )
    return rows
