"""The rows of an experiment, from whichever package owns the section `data`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from foundry.core.contracts import Rows
from foundry.core.loading import read_tokenizer
from foundry.core.run import Run
from foundry.core.training.init_from import source_of

if TYPE_CHECKING:
    from foundry.core.config import Experiment


def open_rows(experiment: Experiment, run: Run | None = None, note: Callable[[str], None] | None = None) -> Rows:
    """Prepare the corpus if it never was, and open it: by the tokenizer of `run`, or of the weights that
    `init_from` names, or by the one that the experiment asks for."""
    source = None if run else source_of(experiment)
    tokenizer = source.tokenizer() if source else read_tokenizer(run, experiment) if run else None
    rows: Rows = experiment.registry.sections["data"].load()(
        experiment.data,
        block_size=experiment.model_args.block_size,
        seed=experiment.seed,
        tokenizer=tokenizer,
        progress=note,
    )
    return rows
