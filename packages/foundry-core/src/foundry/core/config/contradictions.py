"""What fields mean together: the combinations that no model can be built from. Those of variants: compatibility.py."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from foundry.core.blame import FAULTS, answers_for, described
from foundry.core.config.compatibility import misfits, unscaled_scores
from foundry.core.config.document import Document, Fault, Path
from foundry.core.config.experiment import Experiment
from foundry.core.config.layer_keys import parse_layers
from foundry.core.config.sugar import moved_settings
from foundry.core.contracts import AttentionParams, Params, PluginError, PositionParams
from foundry.core.registry import Registry

SIZES: tuple[Path, ...] = tuple(
    ("model_args", key) for key in ("n_layer", "n_head", "n_embd", "head_dim", "block_size")
)


def contradictions(
    experiment: Experiment, document: Document, registry: Registry, wrong: Sequence[Path]
) -> list[Fault]:
    """Every impossible combination, less those of values that are `wrong` by themselves.

    Raises:
        PluginError: a variant's own check fails.
    """
    found: list[Fault] = []

    def is_wrong(*paths: Path) -> bool:
        return any(bad[: len(path)] == path or path[: len(bad)] == bad for bad in wrong for path in paths)

    if not is_wrong(("init_from",)):
        found += _source(experiment, document, registry)
    if not is_wrong(("training", "batch_size"), ("training", "micro_batch")):
        found += _micro_batch(experiment, document)
    if is_wrong(*SIZES):
        return found
    found += _heads(experiment, document)
    layers_faults = list(_layers(experiment, document))
    found += layers_faults
    for path, params in _all_params(experiment):
        if not is_wrong(path):
            found += _problems(experiment, document, path, params)
    if not is_wrong(("layers",)) and not layers_faults:
        found += misfits(experiment, document, registry, is_wrong)
        if not is_wrong(("model_args", "attention"), ("model_args", "scaling")):
            found += unscaled_scores(experiment, document)
    return found


def _source(experiment: Experiment, document: Document, registry: Registry) -> Iterator[Fault]:
    named = experiment.init_from
    variant = registry.source(named)
    if named is None or variant is None:
        return
    params: Any = variant.params
    with answers_for(params):
        fault = params.fault(named)
    if fault:
        yield document.fault(("init_from",), fault)


def misplaced(experiment: Experiment, written: Document) -> Iterator[Fault]:
    """Settings that were written by an alias, of which the chosen variant has none: harmless where they say what always
    holds there.

    Args:
        written: the merged document, before it was resolved.
    """
    registry = experiment.registry
    for slot in registry.placed_slots:
        path = (slot.section, slot.key)
        for name in moved_settings(written, path, registry):
            choice = getattr(getattr(experiment, slot.section), slot.key)
            if name in type(choice).model_fields:
                continue
            given, implied = written.get((*path, name)), choice.implied(experiment.dims()).get(name)
            variants = registry.variants(slot.name)
            having = next(each for each in variants if name in variants[each].params.model_fields)
            if implied is None:
                yield written.fault(
                    (*path, name), f"{slot.name} {choice.type} has none; leave it out, or choose {having}"
                )
            elif given != implied:
                why = f"contradicts {slot.name}: {choice.type}, where it is always {implied!r}"
                yield written.fault((*path, name), f"{given!r} {why}; choose {having}")


def _heads(experiment: Experiment, document: Document) -> Iterator[Fault]:
    args = experiment.model_args
    if args.head_dim is None and args.n_embd % args.n_head:
        path = ("model_args", "n_head" if ("model_args", "n_head") in document.places else "n_embd")
        below = args.n_embd // args.n_head * args.n_head
        widths = " or ".join(str(width) for width in (below, below + args.n_head) if width)
        heads = near_divisors(args.n_embd, args.n_head)
        yield document.fault(
            path,
            f"n_embd {args.n_embd} is not a multiple of n_head {args.n_head}; "
            f"try n_embd {widths}, or n_head {heads}, or set head_dim",
            beside=[("model_args", "n_embd")],
        )


def _micro_batch(experiment: Experiment, document: Document) -> Iterator[Fault]:
    rows, micro = experiment.training.batch_size, experiment.training.micro_batch
    if isinstance(micro, int) and rows % micro:
        tries = near_divisors(rows, micro)
        message = f"{micro} does not divide batch_size {rows}; try {tries}"
        yield document.fault(("training", "micro_batch"), message, beside=[("training", "batch_size")])


def _layers(experiment: Experiment, document: Document) -> Iterator[Fault]:
    taken: dict[int, str] = {}
    for key, override in experiment.layers.items():
        path = ("layers", key)
        try:
            layers = parse_layers(key, experiment.model_args.n_layer)
        except ValueError as error:
            yield document.fault(path, str(error))
            continue
        twice = [layer for layer in layers if layer in taken]
        if twice:
            yield document.fault(path, f"layer {twice[0]} is in {taken[twice[0]]!r} too; a layer has one entry")
        taken |= dict.fromkeys(layers, key)
        position: Any = getattr(override, "position", None)
        if getattr(position, "acts_on", None) == "embeddings":
            message = f"{position.type} acts on the embeddings, which come before any layer; choose it in model_args"
            yield document.fault((*path, "position"), message)


def _problems(experiment: Experiment, document: Document, path: Path, params: Params) -> Iterator[Fault]:
    args, dims = experiment.model_args, experiment.dims(layer=min(_layers_of(experiment, path), default=0))
    if args.head_dim is None and args.n_embd % args.n_head:
        dims = replace(dims, head_dim=64)  # not known, and said so by `_heads`: one that every variant takes
    sizes = [dims]
    try:
        if isinstance(params, PositionParams):
            sizes = [attention.position_dims(dims) for attention in _attentions_with(experiment, params)] or sizes
        problems = [problem for each in dict.fromkeys(sizes) for problem in params.problems(each)]
    except FAULTS as error:
        raise PluginError(f"{'.'.join(map(str, path))}: its check failed: {described(error)}") from error
    for key, message in problems:
        where = path if key == "type" and (*path, "type") not in document.places else (*path, *key.split("."))
        # It names the sizes that its setting does not fit.
        named = [size for size in SIZES if re.search(rf"\b{size[-1]}\b", message)]
        yield document.fault(where, message, beside=named)


def _attentions_with(experiment: Experiment, position: Params) -> list[AttentionParams]:
    """The attentions that a position is built for: those of the layers that have it."""
    try:
        layers = [experiment.layer_args(layer) for layer in range(experiment.model_args.n_layer)]
    except ValueError:  # of an impossible layer, see `_layers`
        layers = [experiment.model_args]
    return [args.attention for args in layers if args.position is position]


def _all_params(experiment: Experiment) -> Iterator[tuple[Path, Params]]:
    """Sections and every choice in them."""
    for name in type(experiment).model_fields:
        section = getattr(experiment, name)
        if isinstance(section, Params):
            yield (name,), section
            for key, value in section:
                choices = value.items() if isinstance(value, dict) else [(None, value)]
                for own, choice in choices:
                    if isinstance(choice, Params):
                        yield (name, key) if own is None else (name, key, own), choice
    for key, override in experiment.layers.items():
        yield from ((("layers", key, slot), choice) for slot, choice in override if isinstance(choice, Params))


def _layers_of(experiment: Experiment, path: Path) -> list[int]:
    if path[0] != "layers":
        return [0]
    try:
        return parse_layers(str(path[1]), experiment.model_args.n_layer)
    except ValueError:
        return []


def near_divisors(number: int, wanted: int) -> str:
    """The divisors of `number` around `wanted`, as words: "2, 4 or 5"."""
    divisors = [n for n in range(1, min(number, 4096) + 1) if number % n == 0]
    near: list[Any] = sorted(sorted(divisors, key=lambda n: abs(n - wanted))[:4])
    return f"{', '.join(map(str, near[:-1]))} or {near[-1]}" if len(near) > 1 else str(near[0])
