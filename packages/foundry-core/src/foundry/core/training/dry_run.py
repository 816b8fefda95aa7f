"""What a run would be, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.core.analyze import analyze
from foundry.core.run import default_run
from foundry.core.training.bench import step_seconds
from foundry.core.training.budget import StepSize, TrainingBudget, remarks_on_rows
from foundry.core.training.device import resolve
from foundry.core.training.open_rows import open_rows

if TYPE_CHECKING:
    from foundry.core.config import Experiment


def plan(experiment: Experiment, out: str | Path | None = None) -> dict[str, Any]:
    """What `train` would do: the figures of `foundry analyze`, the budget, the run folder, and an estimate of the
    seconds from a few steps on random tokens. Writes no run folder.

    The corpus is prepared if it never was, because only it knows the vocabulary.
    """
    rows = open_rows(experiment)
    figures = analyze(experiment, rows.tokenizer.vocab_size)
    step, per_position = StepSize.of(experiment, rows), figures["training_flops_per_token"]
    budget = TrainingBudget.of(experiment, rows, per_position)
    steps = budget.steps
    pace = step_seconds(experiment, rows.tokenizer.vocab_size, resolve(experiment.training), seconds=0.5)
    return {
        "run": str(Path(out) if out is not None else default_run(experiment).path),
        "identity": experiment.identity,
        **figures,
        "tokens_per_step": step.tokens,
        "positions_per_step": step.positions,
        "padding": step.padding,
        "steps": steps,
        "seconds": budget.seconds if steps is None else steps * pace,
        "tokens": None if steps is None else rows.tokens_before(steps * experiment.training.batch_size),
        "positions": None if steps is None else steps * step.positions,
        "epochs": None if steps is None else steps * experiment.training.batch_size / rows.rows_per_epoch,
        "flops": None if steps is None else steps * step.positions * per_position,
        "remarks": remarks_on_rows(experiment, rows, steps),
    }


def vocab_size_of(experiment: Experiment) -> int:
    """V of the experiment's tokenizer. The corpus is prepared if it never was: a tokenizer may learn from it."""
    return int(open_rows(experiment).tokenizer.vocab_size)


def padding_of(experiment: Experiment) -> float:
    """The share of the positions that is padding, in the rows that the experiment trains on."""
    return StepSize.of(experiment, open_rows(experiment)).padding
