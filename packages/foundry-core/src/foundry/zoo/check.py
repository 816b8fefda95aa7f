"""Our model beside transformers', layer by layer, on the same tokens: where they first differ; and our tokenizer."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from foundry.core.contracts import EnvironmentFailure, InvalidData
from foundry.core.generate import first_ids
from foundry.core.registry import registry
from foundry.zoo.config_json import family_of
from foundry.zoo.find import find
from foundry.zoo.pretrained import load, tokenizer_of
from foundry.zoo.shards import WeightsFolder

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 1e-4
"""Of fp32, relative to the largest number where that is above 1."""


class Place(NamedTuple):
    """One place of both models."""

    name: str  # "embedding", "layer 0", ..., "norm", "logits"
    difference: float  # the largest
    largest: float  # number of theirs
    same: bool


def check(name: str | Path, *, tokens: int = 64, tolerance: float = TOLERANCE, device: str = "cpu") -> list[Place]:
    """Compare what each layer of a pretrained model puts out here and in transformers, in fp32 on the same random
    tokens; the first place that is not the same is where the two drift apart.

    Raises:
        EnvironmentFailure: transformers is not installed.
        InvalidData: either cannot load the folder.
    """
    import torch

    folder = WeightsFolder(find(name))
    family = family_of(folder.config, registry())
    theirs = _theirs(folder.path, device)
    ours = load(folder.path, device=device, dtype=torch.float32).model
    length = min(tokens, ours.dims.block_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(ours.embed.num_embeddings, (1, length), generator=generator).to(device)
    n_layer = ours.dims.n_layer
    layers = [theirs.get_submodule(family.layers.format(layer=layer)) for layer in range(n_layer)]
    blocks: list[Any] = list(ours.blocks)
    mine, other = _Seen(), _Seen()
    mine.watch(blocks, ours.norm)
    other.watch(layers, theirs.get_submodule(family.norm))
    with torch.inference_mode():
        mine.outputs.append(ours(ids)[0])
        other.outputs.append(theirs(ids).logits)
    names = ["embedding", *(f"layer {layer}" for layer in range(n_layer)), "norm", "logits"]
    return [_compared(*row, tolerance) for row in zip(names, mine.outputs, other.outputs, strict=True)]


PROBES = (
    "The cat sat on the mat.", " a blank first", "naïve café, 日本語 🙂", "def f(x):\n\n    return x\n",
    "1234567 890 3.14",
)  # fmt: skip
"""Texts that tokenizers cut in different ways."""


def tokenizer_differences(name: str | Path) -> list[str]:
    """What transformers reads otherwise than we, of a few texts, the control tokens and the ends; nothing, where the
    folder has no tokenizer.json. A text that we refuse is left out: transformers loses a part of it.

    Raises:
        EnvironmentFailure: transformers is not installed.
        InvalidData: either cannot load the folder.
    """
    folder = WeightsFolder(find(name))
    ours = tokenizer_of(folder, registry())
    if ours is None:
        return []
    theirs = _from_pretrained("AutoTokenizer", folder.path)
    told = []
    for text in PROBES:
        with suppress(InvalidData):
            mine, other = first_ids(ours, text), list(theirs(text).input_ids)
            if mine != other:
                told.append(f"{text!r} is {mine} here and {other} in transformers")
    for token in ("bos", "eos", "pad", "unk"):
        number, their_number = ours.special_tokens.get(token), getattr(theirs, f"{token}_token_id")
        known = number is not None or token == "eos"  # a class of transformers may have a pad or unk that no file says
        if their_number is not None and known and number != their_number:
            told.append(f"{token} is {number} here and {their_number} in transformers")
    return told


def first_drift(places: list[Place]) -> Place | None:
    return next((place for place in places if not place.same), None)


class _Seen:
    """What goes into the first layer, and what comes out of each and of the last norm, in the order of the pass."""

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []

    def watch(self, layers: list[nn.Module], norm: nn.Module) -> None:
        def entered(module: nn.Module, inputs: Any, named: Any) -> None:
            self.outputs.append(inputs[0] if inputs else named["hidden_states"])

        def left(module: nn.Module, inputs: Any, output: Any) -> None:
            self.outputs.append(output[0] if isinstance(output, tuple) else output)

        layers[0].register_forward_pre_hook(entered, with_kwargs=True)
        for module in (*layers, norm):
            module.register_forward_hook(left)


def _compared(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> Place:
    difference, largest = float((ours - theirs).abs().max()), float(theirs.abs().max())
    return Place(name, difference, largest, difference <= tolerance * max(1.0, largest))


def _theirs(folder: Path, device: str) -> Any:
    import torch

    model = _from_pretrained("AutoModelForCausalLM", folder, dtype=torch.float32, use_safetensors=True)
    return model.to(device).eval()


def _from_pretrained(which: str, folder: Path, **options: Any) -> Any:
    try:
        import transformers  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise EnvironmentFailure(
            "the check compares with transformers, which is not installed", "pip install 'foundry-core[transformers]'"
        ) from error
    try:
        return getattr(transformers, which).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InvalidData(f"{folder}: transformers cannot load it: {error}") from error
