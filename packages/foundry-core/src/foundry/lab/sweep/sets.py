"""`--set` of a sweep: settings that hold in every training of it, the baseline's too, and in nothing that is promoted.

They say at which scale the arms are compared, as a budget does: with two layers, on another text, at half the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from foundry.core.config import Experiment
from foundry.core.config.difference import difference
from foundry.core.config.load import with_sets
from foundry.core.config.schema import BUDGETS
from foundry.core.contracts import InvalidExperiment, UsageError


def as_trained(experiment: Experiment, base: Experiment, sets: Sequence[str]) -> Experiment:
    """An arm with the settings of `--set`.

    Args:
        base: what the arm's mutations were made on.
        sets: `key=value` each.

    Raises:
        InvalidExperiment: a mutation changes what `--set` holds, or no such experiment can be trained.
        UsageError: one of `sets` is not `key=value`, or names the seed.
    """
    if not sets:
        return experiment
    held = keys_of(sets)
    if "seed" in held:
        raise UsageError("--set seed: a sweep chooses the seeds of its trials", "leave it out; --seeds says how many")
    if "training" in held:  # it would replace the budget unseen
        raise UsageError("--set training: name the setting", "for example: --set training.batch_size=8")
    held |= {change.key for change in difference(base, with_sets(base, sets))}
    for change in difference(base, experiment):
        if any(_overlap(change.key, key) for key in held) and change.key not in BUDGET_KEYS:
            raise InvalidExperiment(f"it changes {change.key}, which --set holds", "leave one of them out")
    return with_sets(experiment, sets)


BUDGET_KEYS = {f"training.{name}" for name in BUDGETS}
"""What follows from an arm's sizes: whatever is set, each arm gets what is worth as much."""


def keys_of(sets: Sequence[str]) -> set[str]:
    return {each.partition("=")[0].strip() for each in sets}


def _overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
