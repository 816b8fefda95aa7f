"""What the zoo contributes: the families whose models come in and go out, and pretrained weights as the beginning of a
run. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

from foundry.core.contracts import Slot, SourceParams, UsageError, Variant, hookimpl
from foundry.core.system import JSON_BYTES, read_regular, user_path
from foundry.zoo import families
from foundry.zoo.catalog import ZOO, repository_of

FOUNDRY_API = 1


class PretrainedParams(SourceParams):
    @classmethod
    def takes(cls, named: str) -> bool:
        return named.startswith(ZOO) or _is_pretrained(user_path(named))

    @classmethod
    def fault(cls, named: str) -> str:
        if named.startswith(ZOO):
            try:
                repository_of(named.removeprefix(ZOO))
            except UsageError as error:
                return f"{error.message}; {error.hint}"
        return ""


def _is_pretrained(path: Path) -> bool:
    """Whether a folder's config.json is that of a pretrained model, and not of a run."""
    try:
        config = json.loads(read_regular(path / "config.json", JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "model_type" in config


PRETRAINED = Variant(
    "source",
    "pretrained",
    "foundry.zoo.source:PretrainedSource",
    PretrainedParams,
    "zoo:NAME, or a folder of config.json and safetensors",
)


@hookimpl
def foundry_slots() -> list[Slot]:
    return [families.SLOT]


@hookimpl
def foundry_variants() -> list[Variant]:
    return [*families.VARIANTS, PRETRAINED]
