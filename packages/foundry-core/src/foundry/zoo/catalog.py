"""The models that have a short name, and where their pulled copies lie. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from foundry.core.contracts import UsageError
from foundry.core.system import cache_folder

ZOO = "zoo:"
"""Begins a value of `init_from` that is a name of the zoo."""
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class CatalogEntry(NamedTuple):
    """A model of the zoo."""

    name: str
    repository: str  # on the hub
    architecture: str
    parameters: float
    gated: bool = False  # the licence is accepted on the hub's page first


CATALOG = (
    CatalogEntry("gpt2", "openai-community/gpt2", "gpt2", 124e6),
    CatalogEntry("gpt2-medium", "openai-community/gpt2-medium", "gpt2", 355e6),
    CatalogEntry("gpt2-large", "openai-community/gpt2-large", "gpt2", 774e6),
    CatalogEntry("gpt2-xl", "openai-community/gpt2-xl", "gpt2", 1.56e9),
    CatalogEntry("llama3-1b", "meta-llama/Llama-3.2-1B", "llama", 1.24e9, gated=True),
    CatalogEntry("llama3-3b", "meta-llama/Llama-3.2-3B", "llama", 3.21e9, gated=True),
    CatalogEntry("llama3-8b", "meta-llama/Llama-3.1-8B", "llama", 8.03e9, gated=True),
    CatalogEntry("mistral-7b", "mistralai/Mistral-7B-v0.1", "mistral", 7.24e9),
    CatalogEntry("qwen2-0.5b", "Qwen/Qwen2-0.5B", "qwen2", 494e6),
    CatalogEntry("qwen2-1.5b", "Qwen/Qwen2-1.5B", "qwen2", 1.54e9),
    CatalogEntry("qwen2-7b", "Qwen/Qwen2-7B", "qwen2", 7.62e9),
    CatalogEntry("qwen3-0.6b", "Qwen/Qwen3-0.6B-Base", "qwen3", 596e6),
    CatalogEntry("qwen3-8b", "Qwen/Qwen3-8B-Base", "qwen3", 8.19e9),
    CatalogEntry("olmo2-1b", "allenai/OLMo-2-0425-1B", "olmo2", 1.48e9),
    CatalogEntry("olmo2-7b", "allenai/OLMo-2-1124-7B", "olmo2", 7.3e9),
    CatalogEntry("phi3-mini", "microsoft/Phi-3-mini-4k-instruct", "phi3", 3.82e9),
    CatalogEntry("phi4", "microsoft/phi-4", "phi3", 14.7e9),
    CatalogEntry("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", "mixtral", 46.7e9),
    CatalogEntry("mpt-7b", "mosaicml/mpt-7b", "mpt", 6.65e9),
)


def zoo_folder() -> Path:
    """Where pulled models lie: `zoo` in the cache."""
    return cache_folder() / "zoo"


def repository_of(name: str) -> str:
    """ORG/NAME on the hub, of a name of the zoo or of itself.

    Raises:
        UsageError: there is no such name; the message has the nearest.
    """
    for entry in CATALOG:
        if name in (entry.name, entry.repository):
            return entry.repository
    if REPOSITORY.fullmatch(name) and ".." not in name:
        return name
    from difflib import get_close_matches

    near = get_close_matches(name, [entry.name for entry in CATALOG], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    way_out = f"{hint}`foundry zoo list` names them; or give ORG/NAME, or a folder"
    raise UsageError(f"there is no model {name!r} in the zoo", way_out)


def pulled(name: str) -> Path:
    """Where the copy of a model lies, or would."""
    return zoo_folder() / repository_of(name).replace("/", "--")
