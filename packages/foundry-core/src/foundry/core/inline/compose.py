"""The file: what fills each slot, put together."""

from __future__ import annotations

import re
import textwrap
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from foundry.core.contracts import Dims, Params
from foundry.core.inline.fold import Part, PlainFile

if TYPE_CHECKING:
    from foundry.core.config import Experiment, LayerSpec
    from foundry.core.model import GPT

WIRING = "foundry.core.inline.gpt"

PAGE = '''"""{title}

{notes}

B rows, T tokens, C = n_embd, H heads of width D = head_dim, V vocabulary. To load the weights of a run:

    model = GPT(Config()).eval()
    model.load_state_dict(safetensors.torch.load_file("runs/RUN/checkpoints/STEP/model.safetensors"))
"""

{imports}


@dataclass(frozen=True)
class Config:
{sizes}


{definitions}
'''

IMPORTS = {
    # what a text uses -> the line for it; the empty pattern is in every text
    r"\bmath\.": "import math",
    r"\bCallable\b": "from collections.abc import Callable",
    "": "from dataclasses import dataclass\n",
    r"\btorch\.": "import torch",
    r"\bF\.": "import torch.nn.functional as F",
    r"\b(Tensor|nn)\b": "from torch import Tensor, nn",
}

SIZES = {
    "vocab_size": "tokens that there are",
    "block_size": "tokens of a row in training",
    "n_layer": "layers",
    "n_embd": "width of the residual stream",
    "n_head": "query heads",
    "head_dim": "width of a head",
}


def compose(experiment: Experiment, model: GPT) -> str:
    """The text of a model, which was not run yet.

    Raises:
        UsageError: there is no plain text of a part.
    """
    spec, file = model.spec, PlainFile()
    layers = [
        _layer(file, layer, replace(model.dims, layer=number), spec.layers) for number, layer in enumerate(spec.layers)
    ]
    known = {
        "model": spec,
        "dims": model.dims,
        "reads_ids": _reads_ids(spec.layers, model.dims),
        "one_kind": len(set(layers)) == 1,
        "embed_scale": model.embed_scale is not None,
    }
    slots = {slot: _part(getattr(spec, slot), model.dims, spec) for slot in ("norm", "position", "skip")}
    file.define(
        Part(WIRING, "PlainGPT", known, "GPT"), slots, {"PlainBlock": layers[0], "kinds": f"({', '.join(layers)})"}
    )
    definitions = "\n\n\n".join(file.definitions.values())
    used = [size for size in SIZES if f"config.{size}" in definitions]
    width = max(len(f"{size}: int = {getattr(model.dims, size)}") for size in used)
    sizes = [f"    {f'{size}: int = {getattr(model.dims, size)}':<{width}}  # {SIZES[size]}" for size in used]
    return PAGE.format(
        title=f"The model of the experiment `{experiment.name}` in plain PyTorch, by `foundry config inline`.",
        notes=_notes(spec.layers, model),
        imports=_imports(definitions),
        sizes="\n".join(sizes),
        definitions=definitions,
    )


def _layer(file: PlainFile, spec: LayerSpec, dims: Dims, layers: tuple[LayerSpec, ...]) -> str:
    """Define what a layer is made of; the name of its class."""
    slots = {slot: _part(choice, dims, spec) for slot, choice in vars(spec).items()}
    slots["position"] = _part(spec.position, spec.attention.position_dims(dims), spec)
    known = {"spec": spec, "dims": dims, "reads_ids": _reads_ids(layers, dims)}
    return file.define(Part(WIRING, "PlainBlock", known, "Block"), slots)


def _part(choice: Params, dims: Dims, spec: Any) -> Part:
    """What fills a slot. Without a plain text it has no module, and the name says which it is."""
    variant = choice.variant
    assert variant is not None  # an experiment's choices know theirs
    module, _, name = variant.plain.partition(":")
    if not module:
        return Part("", f"{variant.slot} {variant.name}", {})
    return Part(
        module, name, {"settings": choice, "dims": dims, "spec": spec}, called=_class_name(variant.target, name)
    )


def _class_name(target: str, name: str) -> str:
    """A class has the name of the one whose plain text it is."""
    return target.partition(":")[2] if name[0].isupper() else ""


def _reads_ids(layers: tuple[LayerSpec, ...], dims: Dims) -> bool:
    return any(layer.value_embedding.has_part(replace(dims, layer=number)) for number, layer in enumerate(layers))


def _notes(layers: tuple[LayerSpec, ...], model: GPT) -> str:
    """What is chosen, slot by slot, and where layers differ, which has what."""
    lines = []
    for slot in vars(layers[0]):
        chosen = [_named(getattr(layer, slot)) for layer in layers]
        for summary, group in groupby(enumerate(chosen), key=lambda each: each[1]):
            numbers = [number for number, _ in group]
            where = "" if len(numbers) == len(layers) else f"layers {numbers[0]} to {numbers[-1]}: "
            if len(numbers) == 1 and where:
                where = f"layer {numbers[0]}: "
            if summary:
                lines.append(_note(slot, where + summary))
    if skip := _named(model.spec.skip):
        lines.append(_note("skip", skip))
    return "\n".join(lines)


def _note(slot: str, text: str) -> str:
    return textwrap.fill(text, 120, initial_indent=f"    {slot:<15}  ", subsequent_indent=" " * 21)


def _named(choice: Params) -> str:
    """A choice in words; nothing, where it chooses no part."""
    variant = choice.variant
    if variant is None or variant.target == "torch.nn:Identity":
        return ""
    return f"{variant.name}: {variant.summary}" + (f" ({variant.reference})" if variant.reference else "")


def _imports(definitions: str) -> str:
    """Those of what the text uses."""
    return "\n".join(line for pattern, line in IMPORTS.items() if re.search(pattern, definitions))
