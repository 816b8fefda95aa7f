"""The learning-rate range test (Smith, 2017, arXiv:1506.01186): train while the rate rises exponentially from step to
step, and read off where the loss falls and where it no longer does.

It is the trainer's own step on the experiment's own rows, with its optimizer, clipping and micro-batches; only the
schedule is another. An optimizer that has a learning rate of its own beside `training.learning_rate`, as Muon has,
keeps the ratio of the two. How the rule of the suggestion was found is told, with its table, in docs/log.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foundry.core.config.assemble import edit
from foundry.core.config.budget import Budget, with_budget
from foundry.core.contracts import Diverged, FoundryError, UsageError
from foundry.core.limits import within_limits
from foundry.core.run import Run
from foundry.core.system import temporary_folder
from foundry.core.system.signals import StopRequest
from foundry.core.training.distributed import World
from foundry.core.training.reporter import PlainReporter, Reporter
from foundry.core.training.run_training import build

if TYPE_CHECKING:
    from foundry.core.config import Experiment

LOW, HIGH, STEPS = 1e-5, 1.0, 100
LEAST_STEPS = 20
KERNEL = 0.2
"""Standard deviation, in decades of the rate, of the Gaussian that smooths the losses: four of a hundred steps over
five decades. It is symmetric: a running mean would shift the curve to higher rates."""
LEAST_FALL = 0.05
"""The share of the first loss by which the smoothed one must fall before the curve says anything."""
RISE = 0.25
"""The share of its fall by which the smoothed loss rises again when the test has seen enough."""
LEVEL = 0.1
"""The share of its steepest slope at which the loss counts as no longer falling."""
BELOW = 2.5
"""How far below the rate where the loss no longer falls the suggestion is: that rate is good for one step, not for a
whole run. Found by trying: at 100 steps it loses at most 0.05 nats against the best rate of a grid (docs/log.md)."""


def lr_find(
    experiment: Experiment,
    *,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Train `experiment` for at most `steps` optimizer steps while its learning rate rises. Leaves no run folder.

    Args:
        low, high: the rates of the first and the last step.

    Returns:
        `points`: {rate, loss, smoothed} of every step, in the unit of the training loss; `ended`: why there are no
        more; `steepest`, `level`: rates at which the smoothed loss falls fastest, and no longer; `suggestion`: a
        learning rate to train with; `sets`: what to pass to `foundry train` to get it.

    Raises:
        UsageError: `low`, `high` and `steps` are no range.
        Diverged: the loss is not finite before anything is learnt.
        FoundryError: no rate of the range lowers the loss.
    """
    if not 0 < low < high < math.inf:
        raise UsageError(f"from {low:g} to {high:g} is not a range", "it needs 0 < low < high: --low 1e-5 --high 1")
    if steps < LEAST_STEPS:
        raise UsageError(f"{steps} steps are too few to see where the loss falls", f"use {LEAST_STEPS} or more")
    rates = np.geomspace(low, high, steps)
    losses, ended = _ramp(experiment, rates, reporter or PlainReporter())
    rates = rates[: len(losses)]
    smoothed = smooth(rates, losses)
    steepest, level = read_off(rates, smoothed)
    suggestion = float(f"{level / BELOW:.2g}")
    points = zip(rates.tolist(), losses, smoothed.tolist(), strict=True)
    return {
        "name": experiment.name,
        "learning_rate": experiment.training.learning_rate,
        "suggestion": suggestion,
        "sets": rate_settings(experiment, suggestion),
        "steepest": steepest,
        "level": level,
        "ended": ended,
        "points": [{"rate": rate, "loss": loss, "smoothed": calm} for rate, loss, calm in points],
    }


def smooth(rates: np.ndarray, losses: Sequence[float]) -> np.ndarray:
    """Each loss as the mean of its neighbourhood on the logarithm of the rate; see KERNEL."""
    decades = np.log10(rates)
    weights = np.exp(-0.5 * ((decades[:, None] - decades[None, :]) / KERNEL) ** 2)
    return weights @ np.asarray(losses) / weights.sum(axis=1)


def read_off(rates: np.ndarray, smoothed: np.ndarray) -> tuple[float, float]:
    """(the rate at which the loss falls fastest, the first one after it at which it no longer does).

    Raises:
        FoundryError: it does not fall.
    """
    lowest = int(smoothed.argmin())
    if smoothed[0] - smoothed[lowest] < LEAST_FALL * smoothed[0]:
        raise FoundryError(
            f"no learning rate from {rates[0]:.2g} to {rates[-1]:.2g} lowers the loss: {smoothed[0]:.4g} at first, "
            f"{smoothed[lowest]:.4g} at best",
            "begin lower (--low), go higher (--high), or take more time (--steps); weights that are trained already, "
            "of an init_from, have little left to show",
        )
    slope = np.gradient(smoothed, np.log10(rates))
    steepest = int(slope[: lowest + 1].argmin())
    level = steepest + int((slope[steepest:] >= LEVEL * slope[steepest]).argmax())
    if slope[level] < LEVEL * slope[steepest]:  # it falls to the very end
        level = len(rates) - 1
    return float(rates[steepest]), float(rates[level])


def rate_settings(experiment: Experiment, rate: float) -> list[str]:
    """The `--set` values with which the experiment trains at `rate`, the optimizer's own rate in proportion."""
    settings = [f"training.learning_rate={rate:g}"]
    own = getattr(experiment.training.optimizer, "learning_rate", None)
    if own is not None:
        settings.append(f"training.optimizer.learning_rate={own * rate / experiment.training.learning_rate:.2g}")
    return settings


def _ramp(experiment: Experiment, rates: np.ndarray, reporter: Reporter) -> tuple[list[float], str]:
    """The training loss at each rate before the update with it, and why there are no more."""
    experiment = with_budget(
        edit(experiment, {"logging.sample_tokens": 0}, "lr-find"), Budget("max_iters", float(len(rates)))
    )
    peak, interval = experiment.training.learning_rate, experiment.logging.log_interval
    losses: list[float] = []
    with temporary_folder("lr-find") as folder, within_limits():
        trainer = build(Run(folder), experiment, World(), reporter, StopRequest(), profile=False)
        trainer.model.train()
        began = time.perf_counter()
        for step, rate in enumerate(rates.tolist(), 1):
            loss = trainer.step(rate / peak)[0].item()
            if not math.isfinite(loss):
                if not losses:
                    raise Diverged(f"the loss is {loss} before the first step", "`foundry train` shows no more of it")
                return losses, f"not finite at {rate:.2g}"
            losses.append(loss)
            if _is_over(rates[:step], losses):
                return losses, f"rises at {rate:.2g}"
            if step % interval == 0:
                done, row = step / len(rates), {"step": step, "tokens": trainer.progress.tokens, "train_loss": loss}
                reporter.step({**row, "lr": rate}, done, (time.perf_counter() - began) * (1 - done) / done)
    return losses, f"falls or stays level up to {rates[-1]:.2g}"


def _is_over(rates: np.ndarray, losses: Sequence[float]) -> bool:
    """Whether the loss has risen clearly, or has not fallen for a decade of rates after it had."""
    smoothed = smooth(rates, losses)
    lowest = int(smoothed.argmin())
    fall, least = smoothed[0] - smoothed[lowest], LEAST_FALL * losses[0]
    risen = smoothed[-1] - smoothed[lowest] > max(RISE * fall, least)
    return bool(risen or (fall > least and rates[-1] >= 10 * rates[lowest]))
