"""What a scale rule multiplies in the forward pass, as weights of a model without a rule: others know no multipliers.

A multiplier goes where the computation is linear: that of the scores into what makes queries, that of the branches into
what ends a sublayer, that of the logits into the last norm or the head. Which parameters these are is not taken on
trust: a layer without the multiplier, but with candidates multiplied, is computed beside the layer with it, on random
numbers, and the first candidates that give the same bits are taken. They are the same where it is right, because the
factor is one half there, which commutes with every rounding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from foundry.core.contracts import UNSCALED, Context, InvalidData, Multipliers
from foundry.core.model import Block
from foundry.core.model.init import materialize

if TYPE_CHECKING:
    from foundry.core.config import Experiment
    from foundry.core.model import GPT

CANDIDATES = {
    "scores": (("attention.q_norm", "attention.q_b_proj", "attention.q_proj"),),
    "branch": (
        ("attention_post_norm", "attention.o_proj", "attention_norm"),
        ("ffn_post_norm", r"ffn.((shared_)?experts.)?down_proj", "ffn_norm"),
    ),
}
"""Multiplier -> for each place where a layer has it, modules (patterns) whose weights and biases may take it."""

HALF = 0.5
TOKENS = 4


@torch.no_grad()
def folded(experiment: Experiment, model: GPT) -> dict[str, float]:
    """Parameter -> what it is multiplied with, so that a model without a scale rule computes what `model` does;
    parameters that are not named stay.

    Raises:
        InvalidData: a multiplier is in no weight; the message names it and the layer.
    """
    found: dict[str, float] = {}
    for name, factor in model.dims.multipliers._asdict().items():
        if factor == 1:
            continue
        if name == "logits":
            found |= {parameter: factor for parameter in _before_logits(model)}
            continue
        for layer in range(model.dims.n_layer):
            names = _in_layer(experiment, model, layer, name)
            found |= {f"blocks.{layer}.{parameter}": factor for parameter in names}
    return found


def _in_layer(experiment: Experiment, model: GPT, layer: int, name: str) -> tuple[str, ...]:
    """The parameters of a layer that take the multiplier `name`."""
    state = _in_fp32(model.blocks[layer])
    x, ctx = _numbers(model.dims.n_embd), Context(ids=torch.zeros(1, TOKENS, dtype=torch.int64))
    halved = _block(experiment, model, layer, UNSCALED._replace(**{name: HALF}))
    plain = _block(experiment, model, layer, UNSCALED)
    expected, _ = functional_call(halved, state, (x, ctx))
    for names in _candidates(state, CANDIDATES.get(name, ())):
        if torch.equal(functional_call(plain, _half(state, names), (x, ctx))[0], expected):
            return names
    raise _refused(name, f"layer {layer}")


def _before_logits(model: GPT) -> tuple[str, ...]:
    """The parameters that take the multiplier of the logits: the last norm's, else the head's, if it has its own."""
    state, x = _in_fp32(model.norm), _numbers(model.dims.n_embd)
    names = tuple(name for name in state if name in ("weight", "bias"))
    expected = HALF * functional_call(model.norm, state, (x,))
    if torch.equal(functional_call(model.norm, _half(state, names), (x,)), expected):
        return tuple(f"norm.{name}" for name in names)
    if dict(model.head.named_parameters()):
        return ("head.weight",)
    raise _refused("logits", "the last norm")


def _candidates(state: Mapping[str, Tensor], places: tuple[tuple[str, ...], ...]) -> Iterator[tuple[str, ...]]:
    """Names in `state`: for each place the parameters of one of its modules, the likeliest first."""
    found = []
    for modules in places:
        fitting = (tuple(name for name in state if re.fullmatch(rf"{each}\.(weight|bias)", name)) for each in modules)
        found.append([names for names in fitting if names])
    for chosen in product(*found) if found else ():
        yield tuple(name for names in chosen for name in names)


def _block(experiment: Experiment, model: GPT, layer: int, multipliers: Multipliers) -> Block:
    """The layer with tables and without weights."""
    with torch.device("meta"):
        dims = replace(model.dims, layer=layer, multipliers=multipliers)
        block = Block(model.spec.layers[layer], experiment.registry.build, dims, {})
    materialize(block, "cpu")
    return block.eval()


def _in_fp32(module: nn.Module) -> dict[str, Tensor]:
    saved = module.state_dict().items()
    return {name: each.cpu().float() if each.is_floating_point() else each.cpu() for name, each in saved}


def _half(state: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: HALF * tensor if name in names else tensor for name, tensor in state.items()}


def _numbers(size: int) -> Tensor:
    """(1, TOKENS, size), the same every time."""
    return torch.randn(1, TOKENS, size, generator=torch.Generator().manual_seed(0))


def _refused(name: str, where: str) -> InvalidData:
    return InvalidData(
        f"scaling multiplies {name}, which transformers does not, and no weight of {where} can take the factor",
        "a run folder itself is all that Foundry needs to use the model elsewhere",
    )
