"""What is valid in a mutated experiment, but may not be what was meant: each in one line."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from foundry.core.config.experiment import Experiment
from foundry.core.config.layer_keys import parse_layers
from foundry.core.contracts import Params
from foundry.core.project import BASELINE


def remarks(before: Experiment, after: Experiment) -> list[str]:
    """What to know about `after`, a mutation of `before`, and did not hold before."""
    known = set(_of_params(before))
    news = [remark for remark in _of_params(after) if remark not in known]
    return [*_layers_that_stay(before, after), *_rates_that_stay(before, after), *news]


def steps_by_full_rows(before: Experiment, after: Experiment) -> list[str]:
    """What to know about the steps of a mutation: how many tokens a row has, only the text says, which it never read.
    What has the text, as a sweep, sets them itself."""
    steps, size = after.training.max_iters, after.model_args.block_size
    if steps is None or size == before.model_args.block_size:
        return []
    return [
        f"max_iters {steps} is for as many tokens where rows are full; where documents are shorter than {size} tokens, "
        "sweep and compare set it by those that there are"
    ]


def _layers_that_stay(before: Experiment, after: Experiment) -> Iterator[str]:
    """`layers` wins over the model's choice, so that a mutation of that may reach few layers or none."""
    for slot in (slot.key for slot in after.registry.placed_slots if slot.per_layer):
        if getattr(before.model_args, slot) == getattr(after.model_args, slot):
            continue
        own = {key: getattr(override, slot) for key, override in after.layers.items()}
        stay = [key for key, choice in own.items() if choice is not None and choice == _own(before, key, slot)]
        layers = sum(len(parse_layers(key, after.model_args.n_layer)) for key in stay)
        if layers == after.model_args.n_layer:
            yield f"`layers` chooses the {slot} of every layer, which stays: none gets this one"
        elif stay:
            kept = ", ".join(f"{key} ({own[key].type})" for key in stay)
            yield f"`layers` chooses the {slot} of some layers, which stays: {kept}"


def _own(experiment: Experiment, key: str, slot: str) -> Params | None:
    choice: Params | None = getattr(experiment.layers.get(key), slot, None)
    return choice


def _rates_that_stay(before: Experiment, after: Experiment) -> Iterator[str]:
    """The best rate of elementwise updates falls with the width (arXiv:2203.03466); orthogonal ones know it."""
    width, scaling = before.model_args.n_embd, after.model_args.scaling
    if width == after.model_args.n_embd or before.training.learning_rate != after.training.learning_rate:
        return
    if after.training.optimizer.hidden_update != "elementwise":
        return
    rules = [
        name for name, rule in after.registry.variants("scaling").items() if "base_n_embd" in rule.params.model_fields
    ]
    if rules and scaling.type not in rules:
        command = f"foundry mutate scaling {rules[0]}"
        if before.path is not None and before.name != BASELINE.stem:
            command += f" --base {shlex.quote(str(before.path))}"
        yield f"the learning rate stays that of n_embd {width}; for one that follows, `{command}` first, then the width"


def _of_params(experiment: Experiment) -> Iterator[str]:
    """What the choices of each layer say themselves, once."""
    said: dict[str, None] = {}
    for layer in range(experiment.model_args.n_layer):
        dims = experiment.dims(layer=layer)
        for slot, choice in experiment.layer_args(layer):
            if isinstance(choice, Params):
                said |= {f"{slot}.{key}: {remark}": None for key, remark in choice.remarks(dims)}
    yield from said
