"""A model of Foundry's as a folder that transformers loads: config.json, safetensors, the tokenizer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from foundry.core.contracts import Tokenizer
from foundry.core.system import write_durably
from foundry.zoo.config_json import config_of
from foundry.zoo.fold_multipliers import folded
from foundry.zoo.shards import INDEX
from foundry.zoo.staging import refuse_taken, staged
from foundry.zoo.weights import TensorPair, pairs, shards_of

if TYPE_CHECKING:
    from foundry.core.config import Experiment
    from foundry.core.model import GPT

SHARD_BYTES = 5_000_000_000  # as transformers cuts
NO_TOKENS = '{"bos_token_id": null, "eos_token_id": null, "pad_token_id": null}'
"""In config.json, so that transformers takes no architecture's own."""


class Exported(NamedTuple):
    """What was written, and what was not."""

    folder: Path
    architecture: str
    files: list[str]
    bytes: int
    tokenizer: bool  # False: it has no form that transformers reads


def export(
    config: Experiment,
    tokenizer: Tokenizer | None,
    model: GPT,
    folder: str | Path,
    *,
    architecture: str = "",
    max_shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write FOLDER, which must not be there yet, for `transformers.AutoModelForCausalLM.from_pretrained`.

    Args:
        architecture: the `model_type` to write; by default the first that expresses the model.
        max_shard_bytes: more than this is cut into several files.

    Raises:
        InvalidData: no architecture of transformers expresses this model, or its weights cannot take what its scale
            rule multiplies; or FOLDER is there.
        EnvironmentFailure: it cannot be written.
    """
    folder = Path(folder)
    vocab_size = model.embed.num_embeddings
    family, settings = config_of(config, vocab_size, architecture=architecture)
    refuse_taken(folder)
    factors = folded(config, model)
    settings["dtype"] = settings["torch_dtype"] = str(model.embed.weight.dtype).removeprefix("torch.")
    to_huggingface = getattr(tokenizer, "to_huggingface", dict)  # a plugin's tokenizer may have no such form
    texts: dict[str, str] = to_huggingface()
    settings |= json.loads(texts.get("config.json", NO_TOKENS))
    texts = {**texts, "config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n"}
    with staged(folder) as partial:
        size = _write_weights(pairs(family, model, factors), partial, max_shard_bytes)
        for name, text in texts.items():
            (partial / name).parent.mkdir(exist_ok=True)
            write_durably(partial / name, text.encode())
    return Exported(folder, family.model_type, sorted(os.listdir(folder)), size, "tokenizer.json" in texts)


def _write_weights(tensors: list[TensorPair], folder: Path, limit: int) -> int:
    """One shard is in memory at a time."""
    from foundry.core.tensors import write_tensors

    named = {pair.theirs: pair for pair in tensors}
    sizes = {name: sum(part.nbytes for part in pair.parts) for name, pair in named.items()}
    files, total = shards_of(sizes, limit), sum(sizes.values())
    where: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = f"model-{number:05d}-of-{len(files):05d}.safetensors" if len(files) > 1 else "model.safetensors"
        write_tensors(folder / file, {name: named[name].joined() for name in names}, {"format": "pt"})
        where |= dict.fromkeys(names, file)
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_durably(folder / INDEX, json.dumps(index, indent=2).encode())
    return total
