"""The tasks of an experiment: which it has, with which settings, and what a model scores on them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from foundry.core.blame import answers_for
from foundry.core.config import Experiment
from foundry.core.config.assemble import edit
from foundry.core.config.yaml import read_value
from foundry.core.contracts import InvalidData, Item, PluginError, RunHandle, Task, TaskParams, UsageError


@dataclass(frozen=True)
class NamedTask:
    """A task under its name in an experiment, which is also in the names of its metrics: `gsm8k.accuracy`."""

    name: str
    params: TaskParams

    @property
    def type(self) -> str:
        assert self.params.variant is not None
        return self.params.variant.name

    @property
    def metrics(self) -> list[str]:
        """What it gives, the one that ranks models first."""
        return [f"{self.name}.{metric}" for metric in self.params.metrics]


@dataclass(frozen=True)
class Score:
    """What a model scored on a task."""

    means: Mapping[str, float]  # `NAME.METRIC` -> the mean over items
    items: tuple[Item, ...]


def tasks_of(experiment: Experiment, choices: Mapping[str, Any]) -> dict[str, NamedTask]:
    """Tasks chosen as under `eval.tasks`, whatever the experiment has there.

    Raises:
        InvalidExperiment, PluginError: there is no such task, or one of its settings is impossible.
    """
    chosen = edit(experiment, {"eval.tasks": dict(choices)}, "the tasks").eval.tasks
    return {name: NamedTask(name, params) for name, params in chosen.items()}


def task_asked(experiment: Experiment, text: str) -> NamedTask:
    """What `--eval-task TEXT` asks for: a name of `eval.tasks`, a task with its default settings, a shorthand, or a
    task with settings, `{type: recall, pairs: 8}`, under its type's name.

    Raises:
        UsageError: the text names no task.
        InvalidExperiment, PluginError: see `tasks_of`.
    """
    if text in experiment.eval.tasks:
        return NamedTask(text, experiment.eval.tasks[text])
    choice = read_value(text, "--eval-task")
    name = choice.get("type") if isinstance(choice, dict) else choice
    if not isinstance(name, str):
        raise UsageError(f"{text!r} names no task", "give a name, or {type: NAME, SETTING: VALUE}")
    if name not in {**experiment.registry.variants("task"), **experiment.registry.shorthands("task")}:
        raise experiment.registry.unknown_variant("task", name)
    return tasks_of(experiment, {name: choice})[name]


def build_task(experiment: Experiment, task: NamedTask) -> Task:
    """The task itself, which reads what it asks. Raises FoundryError, of what it cannot be built from."""
    built: Task = experiment.registry.build("task", task.params)
    return built


def task_digest(experiment: Experiment, task: NamedTask) -> str:
    """Of what a task asks, see `contracts.Task`. To know it, the task is built.

    Raises:
        PluginError: it has no digest, or one that is no text.
    """
    built = build_task(experiment, task)
    with answers_for(type(built)):
        found = built.digest
        if not isinstance(found, str):
            raise TypeError(f"its digest is {found!r}, and has to be a text")
    return found


def evaluate(handle: RunHandle, experiment: Experiment, task: NamedTask) -> Score:
    """Run a task of `experiment` on a trained model.

    Raises:
        PluginError: its code cannot be called as a task's.
        InvalidData, PluginError: see `scored`.
    """
    built = build_task(experiment, task)
    with answers_for(type(built)):
        return scored(built, handle, task)


def scored(built: Task, handle: RunHandle, task: NamedTask) -> Score:
    """Run a task that is built.

    Raises:
        InvalidData: it has no item, or two of one id.
        PluginError: an item lacks a metric, or has a score that is not a number or details that JSON has not.
    """
    items = tuple(map(_plain, built.run(handle)))
    if not items:
        raise InvalidData(f"task {task.name} has no item")
    seen = set()
    for item in items:
        _check(item, task)
        if item.id in seen:
            raise InvalidData(f"task {task.name} has two items of the id {item.id!r}")
        seen.add(item.id)
    means = {
        full: math.fsum(item.scores[metric] for item in items) / len(items)
        for full, metric in zip(task.metrics, task.params.metrics, strict=True)
    }
    return Score(means, items)


def _plain(item: Item) -> Item:
    """The item with scores that are Python's numbers, as JSON has them: a task may give NumPy's, or a tensor of one."""
    return replace(item, scores={metric: float(value) for metric, value in item.scores.items()})


def _check(item: Item, task: NamedTask) -> None:
    if item.scores.keys() != {*task.params.metrics}:
        raise PluginError(
            f"task {task.name}: item {item.id!r} gives {', '.join(item.scores) or 'nothing'}",
            f"each item needs exactly the metrics that the task's params name: {', '.join(task.params.metrics)}",
        )
    for metric, value in item.scores.items():
        if not math.isfinite(value):
            raise PluginError(f"task {task.name}: {metric} of item {item.id!r} is {value}")
    try:
        json.dumps(item.details)
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"task {task.name}: the details of item {item.id!r} cannot be written as JSON: {error}"
        ) from error
