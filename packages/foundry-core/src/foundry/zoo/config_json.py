"""From a config.json to an experiment, and from an experiment to the config.json of an architecture that expresses it.

Going out, each family writes its best guess and reads it back as it would any model's. Where that is the experiment
that one began with, in every layer, the family expresses it; where it is not, the difference says what it cannot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from foundry.core.config import from_plain
from foundry.core.contracts import FoundryError, InvalidData, InvalidExperiment, PluginError
from foundry.core.contracts.architecture import Config, Entry, Family, Flat, Only, Reading, put
from foundry.core.registry import Registry

if TYPE_CHECKING:
    from foundry.core.config import Experiment

SLOT = "architecture"
EVERYWHERE: tuple[Entry, ...] = (Only("is_causal", (True,)),)
"""Keys that transformers reads whatever the architecture."""

NO_MEANING = re.compile(r"dropout|ffn\.aux_loss|scaling\..*")
"""What only training computes with. What a scale rule multiplies in the forward pass goes into the weights."""


def family_of(config: Config, registry: Registry) -> Family:
    """The family of a config.json's `model_type`.

    Raises:
        InvalidData: no plugin here knows it.
    """
    model_type, known = config.get("model_type"), registry.variants(SLOT)
    if not isinstance(model_type, str) or model_type not in known:
        there_are = f"it knows {', '.join(known)}; a plugin can add one: see docs/zoo.md"
        raise config.refuse("model_type", model_type, "Foundry does not know this architecture", there_are)
    family: Family = known[model_type].load()
    return family


def experiment_of(
    config: Config, registry: Registry, *, name: str, tokenizer: bool = False, changes: Mapping[str, Any] = {}
) -> Experiment:
    """The experiment whose model is the one of a config.json; its training is the default one. Keys that the family
    does not list are not looked at; the rule stands in `foundry.core.contracts.architecture`.

    Args:
        tokenizer: whether the model has one, which the experiment then names.
        changes: flat values of model_args on top, such as a smaller block_size.

    Raises:
        InvalidData: the architecture is not known, or config.json holds what Foundry cannot express, named by its key.
    """
    family = family_of(config, registry)
    reading = Reading(dict(family.args))
    if config.get("quantization_config", None):
        raise config.refuse(
            "quantization_config", "...", "Foundry reads plain weights", "take the repository before it"
        )
    try:
        for entry in (*EVERYWHERE, *family.keys):
            entry.read(config, reading)
        data: dict[str, Any] = {"name": name, "model_args": _nested({**reading.args, **changes})}
        if tokenizer:
            data["data"] = {"tokenizer": {"type": "pretrained"}}
        if reading.layers:
            data["layers"] = {key: _nested(flat) for key, flat in reading.layers.items()}
        return from_plain(data, source=config.source, registry=registry)
    except InvalidExperiment as error:
        raise InvalidData(
            f"{config.source}: Foundry cannot express this model:\n{error.message}", error.hint
        ) from error
    except (TypeError, ValueError, AttributeError) as error:  # a list where a number should be
        raise InvalidData(f"{config.source}: not the config.json of a {family.model_type}: {error}") from error


def config_of(experiment: Experiment, vocab_size: int, *, architecture: str = "") -> tuple[Family, dict[str, Any]]:
    """The family that expresses an experiment, and its config.json.

    Args:
        architecture: the `model_type` to use; by default the first that fits.

    Raises:
        InvalidData: none does; the message names the parts that the nearest one lacks.
    """
    registry, ours = experiment.registry, layers_of(experiment)
    if architecture:
        registry.variant(SLOT, architecture)  # says what there is
    nearest: tuple[str, list[str]] | None = None
    for name, variant in registry.variants(SLOT).items():
        if architecture not in ("", name):
            continue
        family: Family = variant.load()
        try:
            written = _written(family, ours)
            theirs = layers_of(experiment_of(Config(written, f"{name} config.json"), registry, name="export"))
            lacking = _differences(family, ours, theirs)
        except PluginError:
            raise
        except FoundryError as error:
            if nearest is not None:
                continue
            # What it wrote is no model of its own: a part that none of its models has says why, if there is one.
            lacking = _differences(family, ours, [_made_a(family, layer) for layer in ours])
            lacking = lacking or [error.message.strip().splitlines()[-1]]
        if not lacking:
            return family, {"architectures": [family.architecture], **written, "vocab_size": vocab_size}
        if nearest is None or len(lacking) < len(nearest[1]):
            nearest = name, lacking
    assert nearest is not None
    name, lacking = nearest
    what = f"architecture {name} does not express" if architecture else "no architecture of transformers expresses"
    raise InvalidData(
        f"{what} this model; nearest is {name}, but {'; '.join(lacking[:4])}",
        "a run folder itself is all that Foundry needs to use the model elsewhere",
    )


def layers_of(experiment: Experiment) -> list[Flat]:
    """Each layer's model_args, flat, every default filled in, and equal things said in one way."""
    layers = []
    for layer in range(experiment.model_args.n_layer):
        args = experiment.layer_args(layer).filled(experiment.dims(layer=layer))
        flat: Flat = {}
        for key, value in args.model_dump(mode="json").items():
            flat |= {f"{key}.{name}": part for name, part in value.items()} if isinstance(value, dict) else {key: value}
        if flat["attention.type"] == "mha":  # gqa whose query heads share nothing
            flat |= {"attention.type": "gqa", "attention.n_kv_head": flat["n_head"]}
        if "ffn.bias_update_rate" in flat:  # how the biases of a router are trained; here only whether there are any
            flat["ffn.bias_update_rate"] = flat["ffn.bias_update_rate"] is not None
        layers.append({path: value for path, value in flat.items() if not NO_MEANING.fullmatch(path)})
    return layers


def _written(family: Family, layers: list[Flat]) -> dict[str, Any]:
    config: dict[str, Any] = {"model_type": family.model_type}
    for entry in family.keys:
        entry.write(layers, config)
    return config


def _made_a(family: Family, layer: Flat) -> Flat:
    """A layer with what is so in every model of the family."""
    return {path: family.args.get(path, value) for path, value in layer.items()}


def _differences(family: Family, ours: list[Flat], theirs: list[Flat]) -> list[str]:
    """`activation.type is relu2 here and swiglu there`: what a family would make of it, the variants first."""
    if len(ours) != len(theirs):
        return [f"it has {len(theirs)} layers of these {len(ours)}"]
    found: dict[str, str] = {}
    for layer, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        types = [path for path in mine if path.endswith(".type") and mine[path] != other.get(path)]
        skipped = tuple(path.removesuffix("type") for path in types)
        paths = (mine.keys() | other.keys()) - set(family.unused)
        for path in sorted(paths, key=lambda path: (not path.endswith(".type"), path)):
            if mine.get(path) == other.get(path) or path in found or (path not in types and path.startswith(skipped)):
                continue
            where = "" if ours[0].get(path) == mine.get(path) else f" in layer {layer}"
            found[path] = f"its {path.removesuffix('.type')} is {other.get(path)}, not {mine.get(path)}{where}"
    return list(found.values())


def _nested(flat: Flat) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        put(nested, path, value)
    return nested
