"""Tensors of transformers <-> parameters of ours, one at a time, by a family's table of weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from foundry.core.contracts import InvalidData
from foundry.core.contracts.architecture import Config, Family, WeightMap
from foundry.core.model import GPT, model_of
from foundry.core.model.init import materialize
from foundry.core.system import require_memory
from foundry.zoo.shards import AGAIN, WeightsFolder
from foundry.zoo.views import ORDERS, VIEWS

if TYPE_CHECKING:
    from foundry.core.config import Experiment

TIED = "head.weight"
"""Ours, where it is no parameter because the head reads the embedding."""


@dataclass(frozen=True)
class TensorPair:
    """One tensor of theirs, and the views of our parameters that it is, joined along `dim`, its rows in some order.
    Going out, each part is multiplied by its factor."""

    theirs: str
    parts: tuple[Tensor, ...]
    dim: int
    order: Tensor | None
    factors: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.parts[0].shape)
        shape[self.dim] = sum(part.shape[self.dim] for part in self.parts)
        return tuple(shape)

    def fill(self, tensor: Tensor) -> None:
        """Ours from theirs."""
        if self.order is not None:
            tensor = tensor[self.order.argsort()]
        sizes = [part.shape[self.dim] for part in self.parts]
        for part, piece in zip(self.parts, tensor.split(sizes, self.dim), strict=True):
            part.copy_(piece)

    def joined(self) -> Tensor:
        """Theirs from ours: a tensor of its own."""
        scaled = [part if f == 1 else part * f for part, f in zip(self.parts, self.factors, strict=True)]
        if len(scaled) > 1:
            joined = torch.cat(scaled, self.dim)
        else:
            joined = scaled[0].clone(memory_format=torch.contiguous_format)
        return joined if self.order is None else joined[self.order.to(joined.device)]


class Fitting(NamedTuple):
    """What of a checkpoint goes where, by the names of its tensors."""

    wanted: Mapping[str, TensorPair]
    tied: list[str]  # a head that is the embedding
    ahead: dict[str, int]  # of layers that predict tokens further ahead, which nothing here reads -> the layer


def pairs(family: Family, model: GPT, factors: Mapping[str, float] = {}) -> list[TensorPair]:
    """Every tensor that a checkpoint of this model has, layer by layer.

    Args:
        factors: parameter -> what it is multiplied with on the way out; the others are copied.

    Raises:
        InvalidData: the family's table does not name all of the model's parameters.
    """
    own, found = state_of(model), []
    seen: dict[str, int] = dict.fromkeys(own, 0)
    for weight in family.weights:
        for layer in range(model.dims.n_layer) if "{layer}" in weight.theirs else (0,):
            names = [name.format(layer=layer) for name in weight.ours]
            if not all(name in own for name in names):
                continue
            order = ORDERS[weight.order](model.blocks[layer]) if weight.order else None
            scale = tuple(factors.get(name, 1.0) for name in names)
            for pair in _pairs_of(weight, layer, [own[name] for name in names], order, scale):
                found.append(pair)
                for name, part in zip(names, pair.parts, strict=True):
                    seen[name] += part.numel()
    for name, count in seen.items():
        if count != own[name].numel():
            raise InvalidData(f"{family.model_type}: its table of weights does not cover {name}")
    return found


def _pairs_of(
    weight: WeightMap, layer: int, parameters: list[Tensor], order: Tensor | None, factors: tuple[float, ...]
) -> Iterator[TensorPair]:
    view = VIEWS[weight.view]
    for expert in range(len(parameters[0])) if "{expert}" in weight.theirs else (0,):
        parts = tuple(view(parameter, expert) for parameter in parameters)
        yield TensorPair(weight.theirs.format(layer=layer, expert=expert), parts, weight.dim, order, factors)


@torch.no_grad()
def fill(model: GPT, family: Family, folder: WeightsFolder) -> None:
    """Copy a checkpoint into a model's parameters, of whatever dtype and device they are, tensor by tensor.

    Raises:
        InvalidData: as `fitting`; or a tensor holds what is no weight.
    """
    wanted, tied, _ = fitting(model, family, folder)
    for name, tensor in folder.read(wanted):
        low, high = tensor.aminmax()  # NaN is both; and it costs no memory
        if not (low.isfinite() and high.isfinite()):
            raise InvalidData(f"{folder.path}: {name} holds NaN or infinity", AGAIN)
        wanted[name].fill(tensor)
    for name, tensor in folder.read(tied):
        if not torch.equal(tensor.to(model.embed.weight), model.embed.weight):
            raise InvalidData(
                f"{folder.path}: {name} is not the embedding, but config.json ties them: tie_word_embeddings",
                "transformers keeps both then: set tie_word_embeddings to false in config.json",
            )


def fitting(model: GPT, family: Family, folder: WeightsFolder) -> Fitting:
    """Which of a checkpoint's tensors fill which parameters, and which fill none. No tensor is read, and the model may
    be on the meta device.

    Raises:
        InvalidData: a tensor is missing, unknown or of another shape; the message names the first.
    """
    there = folder.shapes
    wanted = _as_saved(pairs(family, model), family, there)
    for name, pair in wanted.items():
        if name not in there:
            raise InvalidData(f"{folder.path}: the tensor {name} is missing")
        if there[name] != pair.shape:
            raise InvalidData(f"{folder.path}: {name} has shape {there[name]}; config.json asks for {pair.shape}")
    tied = [name for name in there if _is_tied(name, family, model)]
    ahead = _ahead(there, family, folder.config, model.dims.n_layer)
    known = {*wanted, *tied, *ahead}
    for name in there:
        if name not in known and not name.endswith(family.ignored):
            raise InvalidData(f"{folder.path}: the tensor {name} is not of this {family.model_type}")
    return Fitting(wanted, tied, ahead)


def _as_saved(wanted: list[TensorPair], family: Family, there: Iterable[str]) -> Mapping[str, TensorPair]:
    """With the names in the file: a base model, saved without its head, lacks the prefix."""
    bare = not any(name.startswith(family.prefix) for name in there)
    return {pair.theirs.removeprefix(family.prefix) if bare else pair.theirs: pair for pair in wanted}


def _ahead(there: Iterable[str], family: Family, config: Config, n_layer: int) -> dict[str, int]:
    """The tensors of the layers after the last, of which config.json says how many there are."""
    count = config.get(family.ahead, 1) if family.ahead else 0
    if type(count) is not int:
        raise config.refuse(family.ahead, count, "is not a number of layers")
    own_name = re.escape(family.layers.removeprefix(family.prefix)).replace(r"\{layer\}", r"(\d+)")
    number = re.compile(rf"(?:{re.escape(family.prefix)})?{own_name}\.")
    layers = {name: int(match[1]) for name in there if (match := number.match(name))}
    return {name: layer for name, layer in layers.items() if n_layer <= layer < n_layer + count}


def _is_tied(name: str, family: Family, model: GPT) -> bool:
    """Whether a tensor is a head that this model does not have, because it reads the embedding."""
    heads = [weight.theirs for weight in family.weights if weight.ours == (TIED,)]
    return name in heads and TIED not in state_of(model)


def outline(experiment: Experiment, vocab_size: int, dtype: torch.dtype) -> GPT:
    """A model on the meta device: parameters in `dtype`, tables and counters in their own."""
    model = model_of(experiment, vocab_size, "meta")
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(parameter.detach().to(dtype)))
    return model


def with_storage(model: GPT, device: str) -> GPT:
    """The same model on a device; its tables are filled, its parameters are not.

    Raises:
        EnvironmentFailure: the machine has not that much memory.
    """
    size = sum(parameter.nbytes for parameter in model.parameters())
    if device == "cpu":
        require_memory(size, "this model", "take one with fewer parameters, or another dtype")
    materialize(model, device)
    return model


def state_of(model: GPT) -> dict[str, Tensor]:
    """Parameters and saved buffers by name."""
    saved = model.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in saved.items()}


def shards_of(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names of tensors, in order, in files of at most `limit` bytes each; a larger tensor has a file of its own."""
    files: list[list[str]] = []
    room = -math.inf
    for name, size in sizes.items():
        if size > room:
            files.append([])
            room = limit
        files[-1].append(name)
        room -= size
    return files
