"""The rows of an experiment, from whichever package owns the section `data`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from foundry.core.contracts import Rows
from foundry.core.run import Run, read_tokenizer
from foundry.core.training.initial import source_run

if TYPE_CHECKING:
    from foundry.core.config import Experiment


def open_rows(experiment: Experiment, run: Run | None = None, note: Callable[[str], None] | None = None) -> Rows:
    """Prepare the corpus if it never was, and open it: by the tokenizer of `run`, or of the run whose weights
    `init_from` names, or by the one that the experiment asks for."""
    holder = run or source_run(experiment)
    rows: Rows = experiment.registry.sections["data"].load()(
        experiment.data,
        block_size=experiment.model_args.block_size,
        seed=experiment.seed,
        tokenizer=read_tokenizer(holder, experiment) if holder else None,
        progress=note,
    )
    return rows
