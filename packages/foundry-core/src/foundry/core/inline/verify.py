"""The file is run, and says what the model says."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from foundry.core.contracts import FoundryError, PluginError
from foundry.core.model import initialize

if TYPE_CHECKING:
    from foundry.core.config import Experiment
    from foundry.core.model import GPT

ROWS, MOST_TOKENS = 2, 1024
TOLERANCE = 1e-5
"""Of logits in fp32, as a share of the largest: what another order of the same sums comes to."""


def verify(text: str, experiment: Experiment, model: GPT) -> float:
    """Run the file, load the model's own weights, and compare logits of random tokens.

    Returns:
        the largest difference, as a share of the largest logit.

    Raises:
        FoundryError: they are not the same.
    """
    initialize(model, experiment.seed)
    generator = torch.Generator().manual_seed(experiment.seed)
    _move(model, generator)
    ids = torch.randint(model.dims.vocab_size, (ROWS, min(model.dims.block_size, MOST_TOKENS)), generator=generator)
    try:
        plain = built(text)
        plain.load_state_dict(model.state_dict())
        with torch.no_grad():
            said, wanted = plain.eval()(ids), model.eval()(ids)[0]
    except Exception as error:
        raise _refused(experiment, f"{type(error).__name__}: {error}") from error
    difference = float((said - wanted).abs().max() / wanted.abs().max().clamp_min(1))
    if not difference <= TOLERANCE:
        raise _refused(experiment, f"its logits differ from the model's by {difference:.1e} of the largest")
    return difference


def built(text: str) -> nn.Module:
    """The model that the text of a file makes."""
    module = ModuleType("inlined")
    exec(compile(text, "<inlined>", "exec", dont_inherit=True), vars(module))
    model: nn.Module = module.GPT(module.Config())
    return model


@torch.no_grad()
def _move(model: nn.Module, generator: torch.Generator) -> None:
    """Nothing is left at 0 or at 1, where a part could be missing and nobody would see it; and whatever a token is made
    of is as often below 0 as above, where activations differ."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)


def _refused(experiment: Experiment, why: str) -> FoundryError:
    registry, spec = experiment.registry, experiment.model_spec(1)
    choices: set[Any] = {spec.norm.variant, spec.skip.variant, spec.position.variant}
    choices |= {choice.variant for layer in spec.layers for choice in vars(layer).values()}
    foreign = sorted(f"{each.slot} {each.name}" for each in choices if registry.is_foreign(each))
    if foreign:
        return PluginError(f"the plain text is not the model: {why}", f"it is made of {', '.join(foreign)}, too")
    return FoundryError(f"the plain text is not the model: {why}")
