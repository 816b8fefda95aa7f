"""The mutation types that are not slots: sizes, rates and the other numbers of an experiment.

Each is a pure function of the resolved experiment and the text from the command line. It raises ValueError for text
that is no such value, and InvalidExperiment for a value that this experiment cannot have. Ranges are the schema's.
`near_...` are the values that a search tries next to the experiment's own; it leaves out those that are impossible.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from foundry.core.config.command_line import Written
from foundry.core.config.model_spec import heads_of
from foundry.core.config.write_yaml import number
from foundry.core.contracts import Edits, InvalidExperiment, Mutation


def change_depth(experiment: Mapping[str, Any], value: str) -> Edits:
    return {"model_args.n_layer": _whole(value)}


def near_depth(experiment: Mapping[str, Any]) -> Sequence[str]:
    layers = experiment["model_args"]["n_layer"]
    return _texts((layers - 1, layers + 1, layers // 2, layers * 2), at_least=1)


def change_width(experiment: Mapping[str, Any], value: str) -> Edits:
    """n_embd, with heads as wide as they were. What else follows from the width, each choice says (`Params.resized`);
    what the learning rate does is the scale rule's."""
    model, width = experiment["model_args"], _whole(value)
    before, heads = model["n_embd"], model["n_head"]
    return {"model_args.n_embd": width, "model_args.n_head": heads_of(width, before, heads)}


def near_width(experiment: Mapping[str, Any]) -> Sequence[str]:
    """Some heads fewer, some more: what keeps head_dim and the share of key/value heads."""
    model = experiment["model_args"]
    width, head = model["n_embd"], model["n_embd"] // model["n_head"]
    return _texts((width + heads * head for heads in (-2, -1, 1, 2, model["n_head"])), at_least=head)


def change_lr(experiment: Mapping[str, Any], value: str) -> Edits:
    return {"training.learning_rate": _number(value)}


def near_lr(experiment: Mapping[str, Any]) -> Sequence[str]:
    return scaled(experiment["training"]["learning_rate"], (0.5, 0.7, 1.4, 2))


def change_batch_size(experiment: Mapping[str, Any], value: str) -> Edits:
    rows = _whole(value)
    return {"training.batch_size": rows, **_equal_tokens(experiment, experiment["training"]["batch_size"], rows)}


def near_batch_size(experiment: Mapping[str, Any]) -> Sequence[str]:
    rows = experiment["training"]["batch_size"]
    return _texts((rows // 2, rows * 2), at_least=1)


def change_block_size(experiment: Mapping[str, Any], value: str) -> Edits:
    tokens = _whole(value)
    return {
        "model_args.block_size": tokens,
        **_equal_tokens(experiment, experiment["model_args"]["block_size"], tokens),
    }


def near_block_size(experiment: Mapping[str, Any]) -> Sequence[str]:
    tokens = experiment["model_args"]["block_size"]
    return _texts((tokens // 2, tokens * 2), at_least=1)


def change_warmup(experiment: Mapping[str, Any], value: str) -> Edits:
    return _of_choice(experiment, "schedule", warmup=_whole(value))


def near_warmup(experiment: Mapping[str, Any]) -> Sequence[str]:
    steps = experiment["training"]["schedule"].get("warmup")
    return () if steps is None else _texts((steps // 2, steps * 2, 0 if steps else 20))


def change_grad_clip(experiment: Mapping[str, Any], value: str) -> Edits:
    return {"training.grad_clip": _number(value)}


def near_grad_clip(experiment: Mapping[str, Any]) -> Sequence[str]:
    return (*scaled(experiment["training"]["grad_clip"] or 1.0, (0.5, 1, 2)), "0")


def change_weight_decay(experiment: Mapping[str, Any], value: str) -> Edits:
    return _of_choice(experiment, "optimizer", weight_decay=_number(value))


def near_weight_decay(experiment: Mapping[str, Any]) -> Sequence[str]:
    decay = experiment["training"]["optimizer"].get("weight_decay")
    return () if decay is None else (*scaled(decay or 0.1, (0.3, 1, 3)), "0")


def change_adam_betas(experiment: Mapping[str, Any], value: str) -> Edits:
    betas = [part for part in re.split(r"[,\s]+", value.strip("()[] ")) if part]
    if len(betas) != 2:
        raise ValueError("needs two numbers, such as 0.9,0.95")
    return _of_choice(experiment, "optimizer", beta1=_number(betas[0]), beta2=_number(betas[1]))


def near_adam_betas(experiment: Mapping[str, Any]) -> Sequence[str]:
    """One of the two at a time."""
    optimizer = experiment["training"]["optimizer"]
    if not {"beta1", "beta2"} <= optimizer.keys():
        return ()
    beta1, beta2 = optimizer["beta1"], optimizer["beta2"]
    pairs = [(other, beta2) for other in (0.8, 0.9, 0.95)] + [(beta1, other) for other in (0.9, 0.95, 0.98, 0.99)]
    return [f"{number(each)},{number(other)}" for each, other in pairs]


def change_dropout(experiment: Mapping[str, Any], value: str) -> Edits:
    return {"model_args.dropout": _number(value)}


def near_dropout(experiment: Mapping[str, Any]) -> Sequence[str]:
    return ("0", "0.05", "0.1", "0.2")


def change_ema(experiment: Mapping[str, Any], value: str) -> Edits:
    return {"training.ema": None if value in ("off", "none", "null") else _number(value)}


def near_ema(experiment: Mapping[str, Any]) -> Sequence[str]:
    return ("off", "0.98", "0.99", "0.995", "0.999")


def change_param(experiment: Mapping[str, Any], value: str) -> Edits:
    """Any setting of a chosen variant: `position.theta=5e4`, `position.scaling={type: yarn, factor: 4}`."""
    setting, equals, text = value.partition("=")
    slot, dot, name = setting.strip().partition(".")
    if not (equals and dot):
        raise ValueError("needs SLOT.PARAM=VALUE, such as position.theta=5e4")
    for section in ("model_args", "training", "data"):
        choice = experiment.get(section, {}).get(slot)
        if isinstance(choice, Mapping) and "type" in choice:
            if name == "type":
                raise InvalidExperiment(
                    f"{setting.strip()} chooses a variant and is not a setting",
                    f"foundry mutate {slot} {text.strip()}",
                )
            names = [each for each in choice if each != "type"]
            if name.partition(".")[0] not in names:
                raise InvalidExperiment(
                    f"{slot} {choice['type']} has no {name!r}", f"it has {', '.join(names) or 'no params'}"
                )
            return {f"{section}.{slot}.{name}": Written(text, f"param {value}")}
    raise InvalidExperiment(f"the experiment has no {slot!r} with params", "for example: param position.theta=5e4")


def near_param(experiment: Mapping[str, Any]) -> Sequence[str]:
    """None that could be told from values alone: a search knows the params' declared ranges."""
    return ()


def _mutation(
    type: str,
    edit: Callable[..., Edits],
    example: str,
    summary: str,
    abbreviation: str = "",
    near: Callable[[Mapping[str, Any]], Sequence[str]] | None = None,
) -> Mutation:
    return Mutation(type, edit, summary, example, abbreviation, near)


MUTATIONS = [
    _mutation("depth", change_depth, "8", "layers; rates as `scaling` has it", near=near_depth),
    _mutation(
        "width",
        change_width,
        "256",
        "n_embd, with head_dim and the kv ratio kept; rates as `scaling` has it",
        near=near_width,
    ),
    _mutation("lr", change_lr, "3e-4", "the peak learning rate", near=near_lr),
    _mutation("batch_size", change_batch_size, "32", "rows in a step, for equal tokens", "batch", near_batch_size),
    _mutation("block_size", change_block_size, "256", "tokens in a row, for equal tokens", "block", near_block_size),
    _mutation("warmup", change_warmup, "50", "steps in which the learning rate rises", near=near_warmup),
    _mutation("grad_clip", change_grad_clip, "0.5", "largest gradient norm; 0 = never clip", "clip", near_grad_clip),
    _mutation("weight_decay", change_weight_decay, "0.05", "decoupled decay of matrices", "wd", near_weight_decay),
    _mutation("adam_betas", change_adam_betas, "0.9,0.99", "beta1 and beta2", "betas", near_adam_betas),
    _mutation("dropout", change_dropout, "0.1", "probability of dropping an activation in training", near=near_dropout),
    _mutation("ema", change_ema, "0.999", "decay of the moving average of the weights; off = none", near=near_ema),
    _mutation(
        "param",
        change_param,
        "optimizer.eps=1e-9",
        "any setting of a chosen variant: SLOT.PARAM=VALUE",
        near=near_param,
    ),
]


def _equal_tokens(experiment: Mapping[str, Any], before: int, after: int) -> Edits:
    """max_iters for as many positions as before: what they have of the text, a sweep counts, in its budget. The other
    budgets do not depend on the size of a step."""
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


def scaled(value: float, factors: Iterable[float]) -> Sequence[str]:
    """`value` times each factor, with two digits: what a person would try."""
    near = [float(f"{value * factor:.2g}") for factor in factors]
    return [number(int(each) if each.is_integer() and each < 1e6 else each) for each in near]


def _texts(sizes: Iterable[int], at_least: int = 0) -> Sequence[str]:
    return [str(size) for size in dict.fromkeys(sizes) if size >= at_least]


def _whole(value: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,18}", value):
        raise ValueError("needs a whole number, such as 8")
    return int(value)


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number; one is 3e-4") from None
