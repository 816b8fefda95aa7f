"""What the models of the zoo are like, by their short names, without a download: the part of each config.json that says
how large the model is. Read to count what they cost; the weights bring a config.json of their own. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from foundry.core.contracts.architecture import Config
from foundry.core.registry import registry
from foundry.zoo.config_json import experiment_of

if TYPE_CHECKING:
    from foundry.core.config import Experiment


def is_named(name: str) -> bool:
    """Whether the sizes of such a model are known."""
    return name in _sizes()


def experiment_named(name: str, sets: Sequence[str] = ()) -> tuple[Experiment, int]:
    """The experiment that has this model, and its vocabulary's size.

    Args:
        sets: `section.key=value` each, on top.

    Raises:
        KeyError: it is not named.
        InvalidExperiment, UsageError: of `sets`.
    """
    from foundry.core.config import from_plain

    config = Config(_sizes()[name], f"zoo:{name}")
    like = experiment_of(config, registry(), name=name)
    return from_plain(like.explicit, source=f"zoo:{name}", sets=sets), int(config.data["vocab_size"])


@cache
def _sizes() -> dict[str, dict[str, Any]]:
    text = files("foundry.zoo").joinpath("sizes.json").read_text(encoding="utf-8")
    sizes: dict[str, dict[str, Any]] = json.loads(text)
    return sizes
