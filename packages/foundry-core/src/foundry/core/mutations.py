"""The mutation types that are not slots: sizes, rates and the other numbers of an experiment.

Each is a pure function of the resolved experiment and the text from the command line. It raises ValueError for text
that is no such value, and InvalidExperiment for a value that this experiment cannot have. Ranges are the schema's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from math import gcd
from typing import Any

from foundry.core.contracts import Edits, InvalidExperiment, Mutation


def change_depth(experiment: Mapping[str, Any], value: str) -> Edits:
    return {"model_args.n_layer": _whole(value)}


def change_width(experiment: Mapping[str, Any], value: str) -> Edits:
    """n_embd, with the width of a head, the share of key/value heads and hidden widths that are not the default's own
    as they were, in proportion."""
    model, width = experiment["model_args"], _whole(value)
    before = model["n_embd"]
    heads: dict[str, int] = {"model_args.n_head": model["n_head"]}
    hidden: dict[str, int] = {}
    for path, choice in _choices(experiment):
        if choice.get("n_kv_head") is not None:
            heads[f"{path}.n_kv_head"] = choice["n_kv_head"]
        if choice.get("hidden") is not None:
            hidden[f"{path}.hidden"] = choice["hidden"]
    unit = before // gcd(before, *heads.values())
    if width < 1 or width % unit:
        below = width // unit * unit
        tries = f"{below} or {below + unit}" if below > 0 else f"{unit}"
        kept = ", ".join(f"{path.rpartition('.')[2]} {count}" for path, count in heads.items())
        raise InvalidExperiment(
            f"width {value}: heads as wide and as shared as now ({kept} of {before}) need a multiple of {unit}",
            f"try {tries}",
        )
    sizes = {path: count * width // before for path, count in heads.items()}
    sizes |= {path: max(1, round(size * width / before)) for path, size in hidden.items()}
    return {"model_args.n_embd": width, **sizes}


def change_lr(experiment: Mapping[str, Any], value: str) -> Edits:
    return {"training.learning_rate": _number(value)}


def change_batch_size(experiment: Mapping[str, Any], value: str) -> Edits:
    rows = _whole(value)
    return {"training.batch_size": rows, **_equal_tokens(experiment, experiment["training"]["batch_size"], rows)}


def change_block_size(experiment: Mapping[str, Any], value: str) -> Edits:
    tokens = _whole(value)
    return {
        "model_args.block_size": tokens,
        **_equal_tokens(experiment, experiment["model_args"]["block_size"], tokens),
    }


def change_warmup(experiment: Mapping[str, Any], value: str) -> Edits:
    return _of_choice(experiment, "schedule", warmup=_whole(value))


def change_grad_clip(experiment: Mapping[str, Any], value: str) -> Edits:
    return {"training.grad_clip": _number(value)}


def change_weight_decay(experiment: Mapping[str, Any], value: str) -> Edits:
    return _of_choice(experiment, "optimizer", weight_decay=_number(value))


def change_adam_betas(experiment: Mapping[str, Any], value: str) -> Edits:
    betas = [part for part in re.split(r"[,\s]+", value.strip("()[] ")) if part]
    if len(betas) != 2:
        raise ValueError("needs two numbers, such as 0.9,0.95")
    return _of_choice(experiment, "optimizer", beta1=_number(betas[0]), beta2=_number(betas[1]))


def change_dropout(experiment: Mapping[str, Any], value: str) -> Edits:
    return {"model_args.dropout": _number(value)}


def change_ema(experiment: Mapping[str, Any], value: str) -> Edits:
    return {"training.ema": None if value in ("off", "none", "null") else _number(value)}


def _mutation(type: str, edit: Callable[..., Edits], example: str, summary: str, abbreviation: str = "") -> Mutation:
    return Mutation(type, edit, summary, example, abbreviation)


MUTATIONS = [
    _mutation("depth", change_depth, "8", "layers"),
    _mutation("width", change_width, "256", "n_embd, with head_dim and the share of key/value heads kept"),
    _mutation("lr", change_lr, "3e-4", "the peak learning rate"),
    _mutation("batch_size", change_batch_size, "32", "rows in a step; max_iters changes for equal tokens", "batch"),
    _mutation("block_size", change_block_size, "256", "tokens in a row; max_iters changes for equal tokens", "block"),
    _mutation("warmup", change_warmup, "50", "steps in which the learning rate rises"),
    _mutation("grad_clip", change_grad_clip, "0.5", "largest norm of the gradient; 0 = never clip", "clip"),
    _mutation("weight_decay", change_weight_decay, "0.05", "decoupled decay of matrices", "wd"),
    _mutation("adam_betas", change_adam_betas, "0.9,0.99", "beta1 and beta2", "betas"),
    _mutation("dropout", change_dropout, "0.1", "probability of dropping an activation in training"),
    _mutation("ema", change_ema, "0.999", "decay of the moving average of the weights; off = none"),
]


def _choices(experiment: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The attention's and the feed-forward's params, of the model and of each entry of `layers`."""
    holders = {"model_args": experiment["model_args"]}
    holders |= {f"layers.{key}": override for key, override in experiment["layers"].items()}
    for path, holder in holders.items():
        yield from ((f"{path}.{slot}", holder[slot]) for slot in ("attention", "ffn") if slot in holder)


def _equal_tokens(experiment: Mapping[str, Any], before: int, after: int) -> Edits:
    """max_iters for as many tokens as before; the other budgets do not depend on the size of a step."""
    steps = experiment["training"]["max_iters"]
    if steps is None or after < 1:
        return {}
    return {"training.max_iters": max(1, round(steps * before / after))}


def _of_choice(experiment: Mapping[str, Any], slot: str, **params: Any) -> Edits:
    choice = experiment["training"][slot]
    for name in params:
        if name not in choice:
            raise InvalidExperiment(f"{slot} {choice['type']} has no {name}", f"it has {', '.join(choice)}")
    return {f"training.{slot}.{name}": value for name, value in params.items()}


def _whole(value: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,18}", value):
        raise ValueError("needs a whole number, such as 8")
    return int(value)


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number; one is 3e-4") from None
