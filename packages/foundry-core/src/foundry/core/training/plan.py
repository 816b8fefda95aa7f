"""What a run would be, and what it came to, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.core.analyze import analyze
from foundry.core.limits import within_limits
from foundry.core.loading import choose_checkpoint, restored
from foundry.core.run import Run, default_run
from foundry.core.training.bench import step_seconds
from foundry.core.training.claim import refuse_another
from foundry.core.training.device import Device, resolve
from foundry.core.training.distributed import World
from foundry.core.training.evaluation import evaluate
from foundry.core.training.horizon import Horizon, Step, padding_remark
from foundry.core.training.report import PlainReporter, Reporter
from foundry.core.training.rows import open_rows

if TYPE_CHECKING:
    from foundry.core.config import Experiment


def plan(experiment: Experiment, out: str | Path | None = None) -> dict[str, Any]:
    """What `train` would do: the figures of `foundry analyze`, the budget, the run folder, and an estimate of the
    seconds from a few steps on random tokens. Writes no run folder.

    The corpus is prepared if it never was, because only it knows the vocabulary.
    """
    rows = open_rows(experiment)
    figures = analyze(experiment, rows.tokenizer.vocab_size)
    step, per_position = Step.of(experiment, rows), figures["training_flops_per_token"]
    budget = Horizon.of(experiment, rows, per_position)
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
        "remarks": [remark] if (remark := padding_remark(experiment, rows)) else [],
    }


def evaluate_run(
    path: str | Path, experiment: Experiment | None = None, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """The validation loss of a run's last checkpoint over the whole validation text.

    Args:
        path: the run folder.
        experiment: whose run it must be, if that matters.

    Raises:
        InvalidData: the run has no checkpoint, is another experiment's, or its text has changed.
    """
    reporter = reporter or PlainReporter()
    run = Run(Path(path))
    if experiment is not None:
        refuse_another(run, experiment)
    saved = choose_checkpoint(run, "last", reporter.note)
    config, tokenizer, model = restored(run, saved)
    device = resolve(config.training, saved=Device.saved_in(run.config(), source=str(run.config_file)))
    rows = open_rows(config, run, reporter.note)
    if saved.state["loader"]:
        rows.resume(saved.state["loader"])
    else:  # nothing was trained here that other text could spoil
        reporter.note(f"{run.path} holds weights as they came; they are scored on the text of its config.json")
    with within_limits():
        scored = evaluate(model.to(device.torch), rows.validation, tokenizer, device, World())
    assert scored is not None
    return {
        "run": str(run.path),
        "step": saved.state["step"],
        "val_loss": scored.val_loss,
        "val_bpb": scored.val_bpb,
        "tokens": scored.tokens,
    }


def vocab_size_of(experiment: Experiment) -> int:
    """V of the experiment's tokenizer. The corpus is prepared if it never was: a tokenizer may learn from it."""
    return int(open_rows(experiment).tokenizer.vocab_size)


def padding_of(experiment: Experiment) -> float:
    """The share of the positions that is padding, in the rows that the experiment trains on."""
    return Step.of(experiment, open_rows(experiment)).padding
