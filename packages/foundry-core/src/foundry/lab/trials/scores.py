"""What a trial is ranked by: the metrics of its training, and those of the tasks that it is scored on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.core.config import Experiment
from foundry.core.contracts import InvalidData, UsageError
from foundry.core.system import replace_durably, writing
from foundry.core.tasks import NamedTask, evaluate, task_asked, task_digest, tasks_of
from foundry.lab.ledger.records import Json, TaskSpec

if TYPE_CHECKING:
    from foundry.core.handle import FinishedRun

OF_TRAINING = ("val_loss", "val_bpb", "train_loss")
"""The metrics of every run that one may rank by."""
COMPARES_TOKENIZERS = "val_bpb"
"""What is left to rank by, where models are fed by different tokenizers."""


def tasks_asked(baseline: Experiment, texts: Sequence[str]) -> list[NamedTask]:
    """The tasks of `--eval-task TEXT ...`, with the settings that the baseline has for them.

    Raises:
        UsageError: there is no such task, or it is asked for twice.
    """
    tasks = [task_asked(baseline, text) for text in texts]
    names = [task.name for task in tasks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(
            f"--eval-task {min(twice)} is given twice",
            "under eval.tasks of the baseline, two may have names of their own",
        )
    return tasks


def metric_asked(text: str, texts: Sequence[str], tasks: Sequence[NamedTask]) -> str:
    """The metric that a text names; for the name of a task alone, its first metric.

    Args:
        texts: as the tasks were asked for.

    Raises:
        UsageError: no trial has it.
    """
    for asked, task in zip(texts, tasks, strict=True):
        if text in (asked, task.name):
            return task.metrics[0]
    known = [*OF_TRAINING, *(metric for task in tasks for metric in task.metrics)]
    if text not in known:
        hint = f"a trial has {', '.join(known)}; --eval-task T adds the scores of task T"
        raise UsageError(f"there is no metric {text!r}", hint)
    return text


def scores(trained: Mapping[str, Any], run: Path, experiment: Experiment, specs: Sequence[TaskSpec]) -> Json:
    """`metrics` of a trained run, name -> value, and which of them are `higher_is_better`. Each task's items are kept
    in RUN/items/NAME.jsonl.

    Args:
        trained: its result.json.

    Raises:
        InvalidData: a task asks something else than when the trial was asked for.
    """
    metrics = {name: trained[name] for name in OF_TRAINING if trained[name] is not None}
    if trained["training_seconds"] > 0:
        metrics["tokens_per_second"] = trained["tokens"] / trained["training_seconds"]
    if specs:
        from foundry.core.handle import FinishedRun

        handle = FinishedRun.of(run)
        for spec in specs:
            metrics |= _scores(handle, spec, experiment)
    known = {name: experiment.registry.metric(name) for name in metrics}
    return {"metrics": metrics, "higher_is_better": [name for name, it in known.items() if it and it.higher_is_better]}


def _scores(handle: FinishedRun, spec: TaskSpec, experiment: Experiment) -> Mapping[str, float]:
    task = tasks_of(experiment, {spec.name: spec.choice or {"type": spec.name}})[spec.name]
    if spec.choice and task_digest(experiment, task) != spec.digest:
        raise InvalidData(f"the questions of task {spec.name} have changed since the trial was queued", "ask again")
    score = evaluate(handle, experiment, task)
    file = handle.run / "items" / f"{spec.name}.jsonl"
    with writing(file):
        file.parent.mkdir(exist_ok=True)
        replace_durably(file, "".join(json.dumps(asdict(item)) + "\n" for item in score.items).encode())
    return score.means
