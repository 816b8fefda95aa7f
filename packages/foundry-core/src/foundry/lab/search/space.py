"""What a search can propose: for every mutation type, the values that make a new, valid experiment.

Variants and shorthands come from the registry. A `Mutation` says itself what lies near the experiment's own value. The
params of the chosen variants are searched without further code: within their declared ranges, by halves and doubles.
What comparisons hold fixed is no mutation type, and so in no space.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from foundry.core.blame import FAULTS, explained
from foundry.core.config import Experiment
from foundry.core.config.mutate import list_mutations, mutate
from foundry.core.config.write_yaml import flow
from foundry.core.contracts import Params
from foundry.core.mutations import scaled
from foundry.lab.trials.failure import is_of_code, reason_of
from foundry.lab.trials.scores import COMPARES_TOKENIZERS

_BOUNDS = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}


def values_on(
    experiment: Experiment, metric: str = "val_loss", note: Callable[[str], None] = lambda text: None
) -> dict[str, tuple[str, ...]]:
    """Mutation type -> the values whose mutation of `experiment` is valid and new, in the order of the list.

    Args:
        metric: what experiments are ranked by; the slots of `data` take part only where it compares them.
        note: told of a mutation whose code fails; it takes no part.
    """
    values: dict[str, tuple[str, ...]] = {}
    seen = {experiment.identity}
    for type, value in _candidates(experiment, metric, note):
        try:
            identity = mutate(experiment, type, value).experiment.identity
        except FAULTS as error:
            if is_of_code(explained(error)):
                note(f"{type} {value} is not proposed: {reason_of(error)}")
            continue  # it is not valid here: what the search is spared
        if identity not in seen:
            seen.add(identity)
            values[type] = (*values.get(type, ()), value)
    return values


def _candidates(experiment: Experiment, metric: str, note: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    registry, plain = experiment.registry, experiment.plain()
    for row in list_mutations(registry):
        slot = registry.slots.get(row.type)
        if slot is None:
            mutation = registry.mutations[row.type]
            try:
                near = [mutation.example] if mutation.nearby is None else [*mutation.nearby(plain)]
            except FAULTS as error:
                note(f"{row.type} is not proposed: {reason_of(error)}")
                near = []
            yield from ((row.type, value) for value in near)
        elif slot.section != "data" or metric == COMPARES_TOKENIZERS:
            yield row.type, row.value
    for slot in registry.placed_slots:
        choice = getattr(getattr(experiment, slot.section, None), slot.key, None)
        if slot.section == "data" or not isinstance(choice, Params) or choice.variant is None:
            continue
        for name, field in choice.variant.params.model_fields.items():
            if name not in registry.mutations:  # `weight_decay 0.3` is what one would type
                for each in near_field(getattr(choice, name), field):
                    yield "param", f"{slot.key}.{name}={each}"


def near_field(value: Any, field: FieldInfo) -> list[str]:
    """Values to try, as `param` takes them, for a field that now has `value`: within its declared range, and none for
    text, for None, and for what says `json_schema_extra={"search": False}`."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and extra.get("search") is False:
        return []
    if isinstance(value, bool):
        return [flow(not value)]
    if get_origin(field.annotation) is Literal:
        return [each if isinstance(each, str) else flow(each) for each in get_args(field.annotation) if each != value]
    if isinstance(value, int):
        sizes = (value // 2, value * 2) if value > 8 else (value - 1, value + 1, value * 2)
        return [str(size) for size in dict.fromkeys(sizes) if size != value and _within(size, field)]
    if isinstance(value, float):
        is_share = not (_within(-0.01, field) or _within(1.01, field))
        if is_share and value >= 0.5:  # 0.95 is to 0.9 and 0.975 as 0.05 is to 0.1 and 0.025
            near = [f"{1 - (1 - value) * factor:.6g}" for factor in (2, 0.5)]
        else:
            near = [*scaled(value, (0.5, 2))] if value else ["0.1"] * is_share
        return [each for each in near if float(each) != value and _within(float(each), field)]
    return []


def _within(value: float, field: FieldInfo) -> bool:
    return all(
        holds(value, getattr(limit, name))
        for limit in field.metadata
        for name, holds in _BOUNDS.items()
        if hasattr(limit, name)
    )
