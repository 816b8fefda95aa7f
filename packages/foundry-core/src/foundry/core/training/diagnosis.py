"""Why a training has failed, where a plugin's code is the reason: found by doing a step of it again, and looking.

A loss that is not a number may come of a learning rate, or of a line that takes the root of what is negative. With the
weights that the run began with, on its first rows and on those where it failed, the first answer that is not finite
though its input was names that line; so does autograd, of a gradient. And an error that is raised where Foundry works
with an answer may come of that answer.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foundry.core.blame import place_at
from foundry.core.contracts import Diverged, FoundryError, PluginError, Variant
from foundry.core.model import initialize
from foundry.core.model.promises import Promise, kept_promises, parts_of_plugins, place_of_answer, watched

if TYPE_CHECKING:
    from foundry.core.training.trainer import Trainer

FRAME = re.compile(r'File "(.+)", line (\d+), in (\S+)')
"""Of a printed traceback."""


class _NotFinite(Exception):
    """An answer of a plugin's part is not finite, and what it was given is."""


def diagnosed(failure: Exception, trainer: Trainer) -> Exception:
    """The failure of a run that is over, in other words where a plugin's answer is the reason. The weights of the
    trainer are lost."""
    objective = getattr(trainer.objective, "_orig_mod", trainer.objective)  # not compiled
    is_alone = trainer.world.size == 1  # else its peers would wait for this rank
    if not is_alone or not parts_of_plugins(objective, trainer.experiment.registry):
        return failure
    try:
        if isinstance(failure, Diverged):
            return _of_numbers(failure, trainer, objective)
        if not isinstance(failure, FoundryError):
            _look_at_answers(trainer, objective)
    except PluginError as reason:
        return reason
    except Exception:  # it fails in another way now, and that is not what was asked
        pass
    return failure


def _look_at_answers(trainer: Trainer, objective: nn.Module) -> None:
    """Raises PluginError where one is none of its slot."""
    with kept_promises(objective, trainer.experiment.registry), trainer.device.autocast(), torch.no_grad():
        objective(next(trainer.feed.micro_batches(trainer.feed.local(0)))[0])


def _of_numbers(failure: Diverged, trainer: Trainer, objective: nn.Module) -> Diverged:
    if trainer.experiment.init_from:  # whose weights are not made anew here
        return failure
    initialize(trainer.model, trainer.experiment.seed)
    line = next(_lines(trainer, objective), None)
    if line is None:
        return failure
    return Diverged(f"{line}\n{failure.message}", "with the weights that the run began with, too: no setting helps")


def _lines(trainer: Trainer, objective: nn.Module) -> Iterator[str]:
    """What is wrong, and where, for each batch that is tried."""
    for cursor in dict.fromkeys((0, _failed_at(trainer))):
        for batch, _ in trainer.feed.micro_batches(trainer.feed.local(cursor)):
            trainer.optimizer.zero_grad()
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                try:
                    with watched(objective, trainer.experiment.registry, _look), torch.autograd.detect_anomaly():
                        with trainer.device.autocast():
                            total, _, _ = objective(batch)
                        total.backward()
                except _NotFinite as found:
                    yield str(found)
                except RuntimeError as error:  # of autograd, which tells the line in a warning
                    yield from _line_of_gradient(error, [str(each.message) for each in told])


def _failed_at(trainer: Trainer) -> int:
    """The training row at which the step began whose figures were the first that are not finite."""
    rows = trainer.metrics.pending
    steps = [row["step"] for row in rows if not math.isfinite(row["train_loss"] + row.get("grad_norm", 0.0))]
    return (min(steps, default=1) - 1) * trainer.experiment.training.batch_size


def _look(part: nn.Module, variant: Variant, promise: Promise, given: tuple[Any, ...], answer: Any) -> None:
    if _is_finite(given) and not _is_finite(answer):
        name = f"{type(part).__name__}.{promise.method}"
        raise _NotFinite(f"{place_of_answer(part, promise)}: {name} answers what is not finite, of finite input")


def _is_finite(value: Any) -> bool:
    """Of every number in it."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return all(map(_is_finite, values))


def _line_of_gradient(error: RuntimeError, told: list[str]) -> Iterator[str]:
    frames = [place_at(file, int(line), name) for text in told for file, line, name in FRAME.findall(text)]
    if place := next((each for each in reversed(frames) if each is not None and each.distribution), None):
        yield f"{place}: {place.function}: its gradient is not finite: {str(error).splitlines()[0]}"
