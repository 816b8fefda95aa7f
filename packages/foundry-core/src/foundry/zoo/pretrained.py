"""A pretrained model as Foundry's: from a folder of safetensors, a pulled copy, or the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from foundry.core.contracts import Tokenizer, UsageError
from foundry.core.registry import Registry, registry
from foundry.zoo.config_json import experiment_of, family_of
from foundry.zoo.find import find
from foundry.zoo.shards import WeightsFolder

if TYPE_CHECKING:
    import torch

    from foundry.core.config import Experiment
    from foundry.core.model import GPT

TOKENIZER = "tokenizer.json"
EMBEDDING = "embed.weight"
"""Ours."""


class Pretrained(NamedTuple):
    """What `load` returns, in the order of `load_run`."""

    config: Experiment
    tokenizer: Tokenizer | None  # None: the folder has no tokenizer.json
    model: GPT


def load_pretrained(
    name: str | Path,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    block_size: int | None = None,
    note: Callable[[str], None] | None = None,
) -> GPT:
    """The pretrained model `name`, in eval mode; `load` returns its experiment and tokenizer, too.

    Args:
        name: of the zoo (`foundry zoo list`), ORG/NAME on the hub, or a folder with config.json and safetensors. What
            is not here yet is downloaded.
        device: where the model goes.
        dtype: of its parameters: float32, bfloat16, float16; by default what the file has.
        block_size: a shorter context than the model was trained for, which costs less memory.
        note: called with what a person should know: a download and its progress, and layers that are not read.

    Raises:
        InvalidData: the folder is damaged, or of an architecture that Foundry does not know.
        EnvironmentFailure: no such device, no network, or no right to the model.
        UsageError: there is no such name or dtype.
    """
    return load(name, device=device, dtype=dtype, block_size=block_size, note=note).model


def load(
    name: str | Path,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    block_size: int | None = None,
    note: Callable[[str], None] | None = None,
) -> Pretrained:
    """What `load_pretrained` loads, with the experiment whose `model_args` it is, and its tokenizer."""
    from foundry.core.training.device import require
    from foundry.zoo.weights import fill, fitting, outline, with_storage

    require(device)
    folder, here = WeightsFolder(find(name, note)), registry()
    changes = {} if block_size is None else {"block_size": block_size}
    family = family_of(folder.config, here)
    vocab_size, tokenizer = vocab_size_of(folder, here), tokenizer_of(folder, here)
    has_one = tokenizer is not None
    config = experiment_of(folder.config, here, name=name_of(name), tokenizer=has_one, changes=changes)
    model = outline(config, vocab_size, dtype_of(dtype) or folder.dtype())
    ahead = fitting(model, family, folder).ahead  # what does not fit is said before memory is spent
    if ahead and note is not None:
        layers = ", ".join(family.layers.format(layer=layer) for layer in sorted(set(ahead.values())))
        note(f"not read: {layers} ({len(ahead)} tensors), for predicting tokens further ahead ({family.ahead})")
    fill(with_storage(model, device), family, folder)
    return Pretrained(config, tokenizer, model.eval())


def vocab_size_of(folder: WeightsFolder, here: Registry) -> int:
    """V of the model: rows of its embedding.

    Raises:
        InvalidData: config.json says none, or not the one that the weights have.
    """
    vocab_size = folder.config.get("vocab_size")
    if type(vocab_size) is not int or vocab_size < 1:
        raise folder.config.refuse("vocab_size", vocab_size, "is not a number of tokens")
    family = family_of(folder.config, here)
    embedding = next((weight.theirs for weight in family.weights if weight.ours == (EMBEDDING,)), "")
    for name in (embedding, embedding.removeprefix(family.prefix)):  # a base model's lacks the prefix
        shape = folder.shapes.get(name, (vocab_size,))
        if shape[:1] != (vocab_size,):
            why = f"{name} has shape {shape}: they are not of one model"
            raise folder.config.refuse("vocab_size", vocab_size, why, "fetch both from the same place")
    return vocab_size


def tokenizer_of(folder: WeightsFolder, here: Registry, *, normalize: bool = False) -> Tokenizer | None:
    """The tokenizer beside the weights; None where there is no tokenizer.json.

    Args:
        normalize: a setting of the variant `pretrained`.

    Raises:
        InvalidData: it has ids that the model has no embedding for, or is damaged.
    """
    if not (folder.path / TOKENIZER).exists():
        return None
    vocab_size = vocab_size_of(folder, here)  # what a tokenizer keeps of each id is for as many as there are rows
    tokenizers = here.variant("tokenizer", "pretrained").load()
    tokenizer: Tokenizer = tokenizers.of(folder.path, vocab_size, normalize=normalize)
    return tokenizer


def name_of(name: str | Path) -> str:
    """A name for an experiment: letters, digits, and `._+=-`."""
    import re

    return re.sub(r"[^A-Za-z0-9._+=-]", "-", str(name).rstrip("/").rpartition("/")[2]).lstrip("._+=-") or "pretrained"


def dtype_of(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Raises UsageError for a word that is no floating-point type."""
    import torch

    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
    short = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}
    if short.get(dtype, dtype) not in types:
        raise UsageError(f"there is no dtype {dtype!r}", f"there are {', '.join([*types, *short])}")
    return types[short.get(dtype, dtype)]
