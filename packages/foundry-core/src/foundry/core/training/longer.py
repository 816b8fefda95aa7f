"""A longer training goes on from a shorter one, where the two begin alike.

With a constant learning rate, or with warm-up, stable and decay, the rates of 1,000 steps are those of 3,000 until the
shorter training decays. What it saved before is the same, bit for bit, as the longer one would have come to. Nothing
asks which schedule it is: two trainings share the steps in which their factors are equal.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from foundry.core.analyze import flops_per_token
from foundry.core.code import code_fingerprint
from foundry.core.config import from_plain
from foundry.core.config.budget import Budget, with_budget
from foundry.core.contracts import FoundryError, InvalidData
from foundry.core.run import Run, list_runs
from foundry.core.system import replace_durably, writing
from foundry.core.training import checkpoint as checkpoints
from foundry.core.training.budget import TrainingBudget
from foundry.core.training.device import Device
from foundry.core.training.open_rows import open_rows

if TYPE_CHECKING:
    from foundry.core.config import Experiment


class Shorter(NamedTuple):
    """A run of the same experiment with less of a budget."""

    run: Run
    experiment: Experiment
    shared: int  # the last step with a checkpoint that is the longer training's, too; 0: there is none


def go_on(run: Run, experiment: Experiment, device: Device, note: Callable[[str], None]) -> None:
    """Let `experiment`, which has not begun in the folder of `run`, begin where a run beside it that differs in the
    budget alone has a checkpoint that is its own, too. Where none has, say so, and how to go on from that run's
    weights: nobody asks for more steps to begin at step 0 again.

    Args:
        device: on which it is trained. What another has computed differs by rounding.
    """
    shorter, code = list(_shorter(run, experiment, device)), code_fingerprint(experiment)
    for each in sorted(shorter, key=lambda each: each.shared, reverse=True):
        if each.shared and adopt(each.run.path, run.path, experiment.identity, each.shared, codes=[code]):
            note(f"continues after step {each.shared:,} of {_from_here(each.run)}, which is the same up to there")
            return
    if shorter:
        path, budget = _from_here(shorter[-1].run), Budget.of(shorter[-1].experiment)
        note(
            f"{path} differs only in its budget ({budget}), but none of its checkpoints fits this run, which begins at "
            f"step 0; to start from its weights: --set init_from={path}"
        )


def _from_here(run: Run) -> str:
    """Its folder, as one would write it in the working directory."""
    path = os.path.relpath(run.path)
    return str(run.path) if path.startswith("..") else path


def shared_steps(short: Experiment, ends: tuple[int | None, int | None]) -> int:
    """The steps that two trainings share, which differ in the budget alone.

    Args:
        ends: their steps, the shorter's first; None where a budget is in seconds.
    """
    if ends[0] is None or ends[1] is None:
        return 0
    schedule, shared = short.registry.build("schedule", short.training.schedule), 0
    while shared < ends[0] and schedule(shared, shared / ends[0]) == schedule(shared, shared / ends[1]):
        shared += 1
    return shared


def kept_for_longer(experiment: Experiment, steps: int | None) -> int:
    """The step after which a checkpoint is worth keeping for a longer training, of one with so many steps: the last
    that the two share. 0: there is none, it is the end, or the longer one would save less than half of these steps."""
    if steps is None or not experiment.checkpoints.before_decay:
        return 0
    schedule = experiment.registry.build("schedule", experiment.training.schedule)
    # By halves: `go_on` will look at every step, but a training of many must not wait for that.
    shared = bisect_left(range(steps), True, key=lambda at: schedule(at, at / steps) != schedule(at, at / _ENDLESS))
    return shared if steps / 2 <= shared < steps else 0


_ENDLESS = 2**62


def adopt(shorter: Path, longer: Path, identity: str, step: int, *, codes: Sequence[str] = ()) -> bool:
    """Let the training in folder `longer`, of experiment `identity`, begin after `step` steps of the one in `shorter`.
    False if that left no such checkpoint, or `longer` has begun already.

    Args:
        codes: by which those steps have to have been trained; empty: by any.
    """
    source, target = Run(shorter), Run(longer)
    if checkpoints.steps(target.checkpoints) or target.config_file.exists():
        return False
    try:
        saved = checkpoints.load(checkpoints.path_of(source.checkpoints, step))
    except InvalidData:  # it was trained by an earlier sweep, or is damaged: then from the start
        return False
    if codes and saved.state.get("codes") != [*codes]:
        return False
    with writing(target.path):
        target.path.mkdir(parents=True, exist_ok=True)
        if source.metrics_file.exists():  # the trainer drops the rows after `step`
            replace_durably(target.metrics_file, source.metrics_file.read_bytes())
    checkpoints.save(
        target.checkpoints, step, checkpoints.Checkpoint(saved.tensors, {**saved.state, "identity": identity})
    )
    return True


def _shorter(run: Run, experiment: Experiment, device: Device) -> Iterator[Shorter]:
    """Those beside `run`, of the same seed, oldest first."""
    budget = Budget.of(experiment)
    for other in list_runs(run.path.parent):
        try:
            config = other.config()
            if (config["name"], config["seed"]) != (experiment.name, experiment.seed) or not config.get("data"):
                continue
            its = from_plain(config["experiment"], project=experiment.project, registry=experiment.registry)
            if with_budget(its, budget).identity != experiment.identity:
                continue
        except FoundryError:  # it is damaged, or needs a plugin that is not here
            continue
        rows = open_rows(experiment)
        per_position = 3 * flops_per_token(experiment, rows.tokenizer.vocab_size)
        ends = [TrainingBudget.of(each, rows, per_position) for each in (its, experiment)]
        steps, seconds = (ends[0].steps, ends[1].steps), (ends[0].seconds, ends[1].seconds)
        if not _is_less(*steps) and not _is_less(*seconds):
            continue
        # `init_from` may name other weights by now, and another run would not say whose its first ones were.
        same = config["data"] == rows.fingerprint and experiment.init_from is None
        same = same and {**config["device"], "local_rank": 0} == {**asdict(device), "local_rank": 0}
        shared = shared_steps(its, steps) if same else 0
        yield Shorter(other, its, max((s for s in checkpoints.steps(other.checkpoints) if s <= shared), default=0))


def _is_less(first: float | None, second: float | None) -> bool:
    return first is not None and second is not None and first < second
