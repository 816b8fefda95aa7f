"""Pretrained models, in and out.

from foundry.zoo import load, load_pretrained

model = load_pretrained("llama3-1b", device="cuda")
config, tokenizer, model = load("qwen2-0.5b")

    catalog.py   the models that have a short name;  sizes.py  how large they are, without a download
    find.py      a folder for a name;  hub.py  downloads: resumed, every file checked
    source.py    as the first weights of a run;  plugin.py  what the zoo contributes
    shards.py    a folder of safetensors, opened lazily
    family.py    the words in which a family of architectures is written down;  families/  one file each
    config_json.py config.json <-> experiment
    weights.py   tensors <-> parameters, by the family's table;  views.py  what shape a parameter has there
    pretrained.py  all of it, inwards;  export_folder.py  outwards, by staging.py
    check.py     the first layer that differs;  fold_multipliers.py  what a scale rule multiplies, into the weights
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foundry.core.contracts.architecture import Choice, Family, Key, Only, WeightMap
    from foundry.zoo.export_folder import export
    from foundry.zoo.pretrained import load, load_pretrained
    from foundry.zoo.rope import Rope

__all__ = ["Choice", "Family", "Key", "Only", "Rope", "WeightMap", "export", "load", "load_pretrained"]

# Imported on first use: what lists the zoo needs no torch.
_PUBLIC = {
    "Choice": "foundry.core.contracts.architecture",
    "Family": "foundry.core.contracts.architecture",
    "Key": "foundry.core.contracts.architecture",
    "Only": "foundry.core.contracts.architecture",
    "Rope": "foundry.zoo.rope",
    "WeightMap": "foundry.core.contracts.architecture",
    "export": "foundry.zoo.export_folder",
    "load": "foundry.zoo.pretrained",
    "load_pretrained": "foundry.zoo.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
