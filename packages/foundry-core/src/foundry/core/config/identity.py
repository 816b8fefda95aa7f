"""What decides the result of an experiment, as one hash.

Two experiments have the same identity exactly if they differ in spelling only, or in fields that declare
`json_schema_extra={"identity": False}`. Defaults are left out, so that writing one changes nothing, and neither does a
new field in a later version; `layers:` counts by what each layer gets, not by how its keys are written; a scale rule
counts only away from its base, since at the base it changes no bit.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from foundry.core.contracts import Params

if TYPE_CHECKING:
    from foundry.core.config.experiment import Experiment


def identity(experiment: Experiment) -> str:
    """sha256 of the canonical form, 64 hexadecimal digits."""
    text = json.dumps(canonical(experiment), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(experiment: Experiment) -> dict[str, Any]:
    """The experiment as sorted JSON would have it, less defaults and what is not its identity."""
    content = canonical_params(experiment)
    content.pop("layers", None)
    dims = experiment.dims()
    if experiment.model_args.scaling.base(dims) == dims:
        content.get("model_args", {}).pop("scaling", None)
    layers = {}
    for layer in range(experiment.model_args.n_layer):
        args = experiment.layer_args(layer)
        if args is not experiment.model_args:
            both = [(slot, choice, getattr(experiment.model_args, slot)) for slot, choice in args]
            own = {slot: canonical_params(choice) for slot, choice, base in both if _differ(choice, base)}
            if own:
                layers[str(layer)] = own
    return {**content, "layers": layers} if layers else content


def _differ(choice: Any, base: Any) -> bool:
    if not isinstance(choice, Params):
        return False
    return not isinstance(base, Params) or canonical_params(choice) != canonical_params(base)


def canonical_params(params: Params) -> dict[str, Any]:
    """The fields that are not default, `type` always: a variant's name says which defaults hold."""
    kept: dict[str, Any] = {}
    dumped: dict[str, Any] | None = None
    for name, field in type(params).model_fields.items():
        if not decides_result(field):
            continue
        value = getattr(params, name)
        if isinstance(value, Params):
            is_choice = "type" in type(value).model_fields
            if inner := canonical_params(value) if not is_choice or _differ(value, default_of(field)) else {}:
                kept[name] = inner
        elif name == "type" or value != default_of(field):
            dumped = dumped or params.model_dump(mode="json")
            kept[name] = _number(dumped[name])
    return kept


def decides_result(field: Any) -> bool:
    """Whether a setting of a `Params` has a part in what a training comes to."""
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("identity") is False)


def default_of(field: Any) -> Any:
    """What a setting of a `Params` is where it is not written; None where it must be."""
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _number(value: Any) -> Any:
    """JSON in which 1.0 and 1 are the same."""
    if isinstance(value, dict):
        return {key: _number(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
