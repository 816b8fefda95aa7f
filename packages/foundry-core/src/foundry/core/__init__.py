"""Foundry's core: the contracts, the registry, experiments, the model, the trainer.

from foundry.core import load_experiment, load_run, train

result = train(load_experiment("experiments/baseline.yaml"))
config, tokenizer, model = load_run(result["run"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundry.core.config import load_experiment
    from foundry.core.loading import load_run
    from foundry.core.run_list import run_rows
    from foundry.core.training import train

    __version__: str

__all__ = ["__version__", "load_experiment", "load_run", "run_rows", "train"]

# Imported on first use: torch, and even importlib.metadata, would slow the commands that need neither.
_PUBLIC = {
    "load_experiment": "foundry.core.config",
    "load_run": "foundry.core.loading",
    "run_rows": "foundry.core.run_list",
    "train": "foundry.core.training",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("foundry-core")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
