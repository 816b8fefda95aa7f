"""From an arm, a share of the budget and a seed to a `Trial`, whose name says everything that its result depends on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from foundry.core.code import code_fingerprint
from foundry.core.config import Experiment
from foundry.core.config.assemble import edit
from foundry.core.config.identity import canonical_params
from foundry.core.contracts import Rows
from foundry.core.digest import digest
from foundry.core.tasks import NamedTask, task_digest
from foundry.lab.ledger.records import TaskSpec, Trial
from foundry.lab.trials.setting import Setting


def task_spec(experiment: Experiment, task: NamedTask) -> TaskSpec:
    """A task as trials know it. To know what it asks, it is built.

    Raises:
        FoundryError: it cannot be, as without its file of questions.
    """
    return TaskSpec(task.name, canonical_params(task.params), task_digest(experiment, task))


def trial_code(experiment: Experiment, tasks: Iterable[TaskSpec]) -> str:
    """`code_fingerprint` of a training and of its evaluation on `tasks`."""
    return code_fingerprint(experiment, tuple(task.type for task in tasks))


def make_trial(experiment: Experiment, seed: int, setting: Setting, tasks: tuple[TaskSpec, ...] = ()) -> Trial:
    """One training of `experiment`, whose budget is this trial's, with `seed`, and its scores on `tasks`.

    Nothing is sampled from its model: that would cost a short trial a tenth of its time. What a longer one may begin
    with, `warm_start` says.
    """
    own = {"seed": seed, "logging.sample_tokens": 0, "checkpoints.before_decay": False}
    trained = edit(experiment, {**own, **setting.edits_of(experiment)}, "the sweep")
    return Trial(
        identity=trained.identity,
        seed=seed,
        code=trial_code(trained, tasks),
        data=data_fingerprint(trained),
        experiment=trained.plain(),
        tasks=tasks,
    )


def data_fingerprint(experiment: Experiment) -> str:
    """Of the rows that it trains on, apart from their order, and of the weights that it begins with, where those are
    another run's. The corpus is prepared if it never was."""
    return _data_of(experiment).fingerprint


def vocab_size(experiment: Experiment) -> int:
    """V of the experiment's tokenizer."""
    return int(_data_of(experiment).rows.tokenizer.vocab_size)


def training_rows(experiment: Experiment) -> Rows:
    """The rows that it trains on, in the order of some seed."""
    return _data_of(experiment).rows


@dataclass(frozen=True)
class _Data:
    fingerprint: str
    rows: Rows


def _data_of(experiment: Experiment) -> _Data:
    # With the working directory, from which a corpus by path is looked for.
    key = digest(os.getcwd(), experiment.plain()["data"], experiment.model_args.block_size, experiment.init_from)
    if key not in _opened:
        from foundry.core.training.init_from import origin_of
        from foundry.core.training.open_rows import open_rows

        rows, origin = open_rows(experiment), origin_of(experiment)
        fingerprint = digest(rows.fingerprint, origin.sha256) if origin else rows.fingerprint
        _opened[key] = _Data(fingerprint, rows)
    return _opened[key]


_opened: dict[str, _Data] = {}
