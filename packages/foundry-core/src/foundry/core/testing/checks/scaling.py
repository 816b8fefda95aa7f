"""What every scale rule must do."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from foundry.core.contracts import UNSCALED, Dims, ScalingParams, Update, Weight, WeightKind
from foundry.core.testing.case import Case

CHECKS = ("starts_from_the_model_itself", "is_one_at_its_base", "answers_for_every_size")

WEIGHTS = [Weight("a.weight", kind, in_layer) for kind in get_args(WeightKind) for in_layer in (True, False)]


def starts_from_the_model_itself(case: Case) -> None:
    """Where no base is given, the base is the model, so that choosing the rule changes nothing yet."""
    params = type(case.params)()
    assert isinstance(params, ScalingParams)
    assert params.base(case.dims) == case.dims


def is_one_at_its_base(case: Case) -> None:
    """In a model of the base's sizes every factor is 1."""
    rule = case.build(case.dims, case.dims)
    assert rule.multipliers == UNSCALED
    assert all(factor == 1 for factor in _factors(rule))


def answers_for_every_size(case: Case) -> None:
    """Every factor of a larger and of a smaller model is a positive number."""
    for change in (4, 0.25):
        dims = _times(case.dims, change)
        rule = case.build(dims, case.dims)
        for factor in (*rule.multipliers, *_factors(rule)):
            assert 0 < factor < math.inf


def _factors(rule: object) -> Iterator[float]:
    for weight in WEIGHTS:
        yield rule.init_factor(weight)  # type: ignore[attr-defined]
        for update in get_args(Update):
            yield rule.lr_factor(weight, update)  # type: ignore[attr-defined]


def _times(dims: Dims, factor: float) -> Dims:
    sizes = {name: max(1, round(getattr(dims, name) * factor)) for name in ("n_layer", "n_head", "n_embd", "head_dim")}
    return replace(dims, **sizes)
