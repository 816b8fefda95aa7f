"""Which choices do not go together in a layer: what one of them does, another has no place for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from foundry.core.config.document import Document, Fault, Path
from foundry.core.config.experiment import Experiment
from foundry.core.config.layer_keys import parse_layers
from foundry.core.config.schema import ModelArgs
from foundry.core.contracts import Dims
from foundry.core.registry import Registry


class Misfit(NamedTuple):
    """The choice of `slot` does something that the choice of `other` has no place for."""

    slot: str
    other: str
    does: str
    instead: str  # what of `slot` would fit


def position(args: ModelArgs, dims: Dims, registry: Registry) -> Iterator[Misfit]:
    """A position acts on something that the attention must have."""
    acts_on, accepted = args.position.acts_on, args.attention.positions
    if acts_on not in accepted:
        known: dict[str, Any] = {name: variant.params for name, variant in registry.variants("position").items()}
        fitting = [name for name, params in known.items() if params.acts_on in accepted]
        where = {"qk": "queries and keys", "scores": "the attention scores", "embeddings": "the embeddings"}
        yield Misfit("position", "attention", f"acts on {where[acts_on]}", f"position {', '.join(fitting)}")


def value_embedding(args: ModelArgs, dims: Dims, registry: Registry) -> Iterator[Misfit]:
    """A value embedding adds to the attention's values."""
    if args.value_embedding.has_part(dims) and not args.attention.value_size(dims):
        yield Misfit("value_embedding", "attention", "adds to the values of an attention", "value_embedding none")


def canon(args: ModelArgs, dims: Dims, registry: Registry) -> Iterator[Misfit]:
    """A canon layer mixes inside of sublayers that let it."""
    sizes = args.canon_sizes(dims)
    for sublayer in sorted(args.canon.inside()) if args.canon.has_part(dims) else ():
        if not sizes[sublayer]:
            instead = "canon ac, which mixes before the sublayers"
            yield Misfit("canon", sublayer, f"mixes inside {sublayer}", instead)


Rule: TypeAlias = Callable[[ModelArgs, Dims, Registry], Iterator[Misfit]]

RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("position", "attention"), position),
    (("value_embedding", "attention"), value_embedding),
    (("canon", "attention", "ffn", "activation"), canon),
)
"""The slots that a rule looks at, and the rule."""


def misfits(
    experiment: Experiment, document: Document, registry: Registry, is_wrong: Callable[..., bool]
) -> Iterator[Fault]:
    """Each pair of choices that does not go together, at the first layer that has both.

    Args:
        is_wrong: of paths, whether one of them holds what is wrong by itself; a rule that looks there says nothing.
    """
    for slots, rule in RULES:
        if is_wrong(*(("model_args", slot) for slot in slots)):
            continue
        judged = set()
        for layer in range(experiment.model_args.n_layer):
            args = experiment.layer_args(layer)
            for found in rule(args, experiment.dims(layer=layer), registry):
                choice, other = getattr(args, found.slot), getattr(args, found.other)
                if (choice, other) not in judged:
                    judged.add((choice, other))
                    yield document.fault(
                        _chosen_at(experiment, layer, found.slot, found.other),
                        f"{choice.type} {found.does}; {other.type} has no place for that; "
                        f"choose {found.instead}, or another {found.other}",
                    )


def unscaled_scores(experiment: Experiment, document: Document) -> Iterator[Fault]:
    """A scale rule with another base_head_dim multiplies scores; each layer's attention must do so."""
    dims = experiment.dims()
    if experiment.model_args.scaling.base(dims).head_dim == dims.head_dim:
        return
    attentions = [experiment.layer_args(layer).attention for layer in range(experiment.model_args.n_layer)]
    for name in dict.fromkeys(each.type for each in attentions if not each.scales_scores):
        yield document.fault(
            ("model_args", "scaling", "base_head_dim"),
            f"attention {name} cannot multiply its scores, as another base_head_dim than its own asks; leave it out",
        )


def _chosen_at(experiment: Experiment, layer: int, slot: str, other: str) -> Path:
    """Where to point when two choices do not go together in a layer: at its own choice, where it has one."""
    n_layer = experiment.model_args.n_layer
    keys = [key for key in experiment.layers if layer in parse_layers(key, n_layer)]
    own = [
        (key, each) for key in keys for each in (slot, other) if getattr(experiment.layers[key], each, None) is not None
    ]
    return ("layers", *own[0]) if own else ("model_args", slot)
