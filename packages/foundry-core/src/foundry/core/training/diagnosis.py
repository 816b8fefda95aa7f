"""Why a training has failed, where a plugin's code is the reason: found by doing a step of it again, and looking.

A loss that is NaN may come from a learning rate, or from a line that takes the root of a negative number. With the
weights that the run began with, on its first rows and on those where it failed, the first answer that is not finite
though its input was names that line; so does autograd, of a gradient. An error that is raised where Foundry works with
an answer may come of that answer. And where the way back fails, autograd remembers which line it was the way back of.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foundry.core.blame import CodeLine, place_at, said
from foundry.core.contracts import Batch, Diverged, FoundryError, PluginError, Variant
from foundry.core.model import initialize
from foundry.core.model.promises import Promise, kept_promises, parts_of_plugins, place_of_answer, watched
from foundry.core.training.objective import summed

if TYPE_CHECKING:
    from foundry.core.training.trainer import Trainer

FRAME = re.compile(r'File "(.+)", line (\d+), in (\S+)')
"""Of a printed traceback."""


class _NotFinite(Exception):
    """An answer of a plugin's part is not finite, and what it was given is."""


def diagnosed(failure: Exception, trainer: Trainer) -> Exception:
    """The failure of a run that is over, in other words where a plugin's answer is the reason. The weights of the
    trainer are lost. Each rank looks for itself, and waits for no other."""
    try:
        if not parts_of_plugins(_parts(trainer), trainer.experiment.registry):
            return failure
        _leave_the_others(trainer)
        if isinstance(failure, Diverged):
            return _of_numbers(failure, trainer)
        if not isinstance(failure, FoundryError):
            _look_at_answers(trainer)
            _look_at_the_way_back(trainer)
    except PluginError as reason:
        return reason
    except Exception:  # it fails in another way now, and that is not what was asked
        pass
    return failure


def _parts(trainer: Trainer) -> nn.Module:
    """All that plugins may have a part in, neither compiled nor wrapped."""
    return nn.ModuleList(each for each in (trainer.model, trainer.objective) if isinstance(each, nn.Module))


def _leave_the_others(trainer: Trainer) -> None:
    """Of several ranks, give the model new parameters, of the same numbers: the old ones call upon the other ranks when
    they get a gradient."""
    if trainer.world.size == 1:
        return
    new: dict[nn.Parameter, nn.Parameter] = {}  # one that several modules share stays shared
    for module in trainer.model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, new.setdefault(parameter, nn.Parameter(parameter.detach(), parameter.requires_grad)))


def _look_at_answers(trainer: Trainer) -> None:
    """Raises PluginError where one is none of its slot."""
    batch, _ = next(trainer.feed.micro_batches(trainer.feed.local(0)))
    with kept_promises(_parts(trainer), trainer.experiment.registry), torch.no_grad():
        _loss(trainer, batch)


def _look_at_the_way_back(trainer: Trainer) -> None:
    """Raises PluginError where autograd fails on its way back through a plugin's line."""
    batch, _ = next(trainer.feed.micro_batches(trainer.feed.local(0)))
    with _anomalies(check_nan=False) as told:
        try:
            _loss(trainer, batch).backward()
        except RuntimeError as error:
            if place := _forward_line(told):
                text = f"{place}: {place.function}: the backward pass through this line fails: {said(error)}"
                raise PluginError(text, place.hint) from error


def _of_numbers(failure: Diverged, trainer: Trainer) -> Diverged:
    if trainer.experiment.init_from:  # whose weights are not made anew here
        return failure
    initialize(trainer.model, trainer.experiment.seed)
    line = next(_lines(trainer), None)
    if line is None:
        return failure
    return Diverged(f"{line}\n{failure.message}", "the initial weights already give this, so no setting helps")


def _lines(trainer: Trainer) -> Iterator[str]:
    """What is wrong, and where, for each batch that is tried."""
    for cursor in dict.fromkeys((0, _failed_at(trainer))):
        for batch, _ in trainer.feed.micro_batches(trainer.feed.local(cursor)):
            trainer.model.zero_grad()
            with _anomalies() as told:
                try:
                    with watched(_parts(trainer), trainer.experiment.registry, _look):
                        total = _loss(trainer, batch)
                    total.backward()
                except _NotFinite as found:
                    yield str(found)
                except RuntimeError as error:
                    if place := _forward_line(told):
                        what = str(error).splitlines()[0]
                        yield f"{place}: {place.function}: its gradient is not finite: {what}"


def _loss(trainer: Trainer, batch: Batch) -> Tensor:
    """All that a step goes back from, for one batch."""
    with trainer.device.autocast():
        total, _, said = trainer.objective(trainer.model, batch)
        aux = summed(said, batch)
    return total + sum(value for name, value in aux.items() if name.endswith("_loss"))


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


@contextmanager
def _anomalies(check_nan: bool = True) -> Iterator[list[warnings.WarningMessage]]:
    """Inside, autograd remembers where each operator was called, and warns of that line if the way back fails there.
    The list holds its warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with torch.autograd.detect_anomaly(check_nan):
            yield told


def _forward_line(told: list[warnings.WarningMessage]) -> CodeLine | None:
    """The innermost line of a plugin's in the tracebacks that autograd told."""
    frames = [frame for each in told for frame in FRAME.findall(str(each.message))]
    places = [place_at(file, int(line), name) for file, line, name in frames]
    return next((each for each in reversed(places) if each is not None and each.distribution), None)
