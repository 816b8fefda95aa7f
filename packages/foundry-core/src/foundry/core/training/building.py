"""How a training's model, optimizer and objective are made. The model has no memory first, is then shared among the
ranks, and then filled.

    model = model_of(experiment, vocab_size, "meta")        nothing but shapes
    trained = parallelize(model, world, device, training)  gives it memory, as much as this rank is to hold
    origin = fill(model, experiment, saved, ...)           the seed's first weights, another's, or a checkpoint's
    optimizer = build_optimizer(model, experiment)

    objective = build_objective(...)                       what a step makes of its rows

A model that ranks share differs in `parallelize` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from foundry.core.blame import answers_for
from foundry.core.contracts import Dims, InvalidData, Origin
from foundry.core.generate import Sampling, generate_ids
from foundry.core.loading import restore_weights
from foundry.core.model import GPT, initialize, model_of
from foundry.core.model.init import materialize, require_filled
from foundry.core.training.checkpoint import Checkpoint
from foundry.core.training.device import Device
from foundry.core.training.distributed import World
from foundry.core.training.initial import source_of
from foundry.core.training.optimization import OptimizerSet

if TYPE_CHECKING:
    from foundry.core.config import Experiment
    from foundry.core.config.schema import Training


def parallelize(model: GPT, world: World, device: Device, training: Training) -> nn.Module:
    """Share a model that is on the meta device among the ranks, and give it memory. Its values are undefined until
    `fill`.

    Returns:
        What a training step calls in the model's place. The model itself keeps the names of its parameters, and is what
        is judged, saved and sampled.
    """
    # 1. Adapters belong here, and then sharding, of which each rank's memory follows.
    # 2. Activation checkpointing.
    model.gradient_checkpointing = training.gradient_checkpointing
    materialize(model, device.torch)
    # 3. Compilation.
    called = cast(nn.Module, torch.compile(model, dynamic=False)) if device.compile else model
    # 4. What joins the ranks' gradients.
    return world.wrap(called)


def fill(model: GPT, experiment: Experiment, saved: Checkpoint | None, *, source: str) -> Origin | None:
    """Fill a model that `parallelize` has given memory: from a checkpoint, else from what `init_from` names, else from
    the streams of the experiment's seed.

    Args:
        source: of the checkpoint, for messages.

    Returns:
        Whose the first weights are; None where the seed has made them, or there is a checkpoint.

    Raises:
        InvalidData: the weights do not fit, or are damaged.
        PluginError: nobody fills a parameter or a buffer of a plugin's module.
    """
    if saved:
        restore_weights(model, saved.tensors["model"], source=source)
        origin = None
    else:
        initialize(model, experiment.seed)
        named = source_of(experiment)
        origin = named.fill(model) if named else None
    require_filled(model)
    return origin


@dataclass(frozen=True)
class Around:
    """An `ObjectiveContext`: a training before its first step, as an objective may use it.

    Args:
        began_with: the sha256 of the weights of `init_from` that a training which goes on began with; None where it
            begins, or began with its seed's.
    """

    experiment: Experiment
    model: GPT
    device: Device
    began_with: str | None = None

    @property
    def dims(self) -> Dims:
        return self.model.dims

    @cached_property
    def loss(self) -> nn.Module:
        made: nn.Module = self.experiment.registry.build("loss", self.experiment.training.loss, self.dims)
        return made

    def reference(self) -> nn.Module:
        """See `ObjectiveContext`."""
        model = model_of(self.experiment, self.dims.vocab_size, "meta")
        materialize(model, self.device.torch)
        origin = fill(model, self.experiment, None, source="")
        if origin and self.began_with not in (None, origin.sha256):
            raise InvalidData(
                f"{origin.run} holds other weights than those that this training began with, and refers to",
                "bring them back, or train anew with --resume never",
            )
        return model.requires_grad_(False).eval()

    def generate(self, prompt: Tensor, max_tokens: int, *, seed: int, temperature: float = 1.0) -> Tensor:
        """See `ObjectiveContext`."""
        was_training = self.model.training
        try:
            return torch.stack(
                list(generate_ids(self.model, prompt, max_tokens, Sampling(temperature), seed=seed)), dim=1
            )
        finally:
            self.model.train(was_training)


def build_objective(around: Around) -> nn.Module:
    """What a step makes of its rows. Nothing of its own is trained.

    Raises:
        PluginError: a plugin's objective cannot be made, or is no module.
    """
    experiment, choice = around.experiment, around.experiment.training.objective
    made = experiment.registry.build("objective", choice, around)
    with answers_for(type(made)):
        objective: nn.Module = made.to(around.device.torch).requires_grad_(False)
    return objective


def build_optimizer(model: GPT, experiment: Experiment) -> OptimizerSet:
    """What moves the weights of a model that is filled.

    Raises:
        PluginError: a plugin's optimizer cannot be made.
    """
    training = experiment.training
    factory = experiment.registry.variant("optimizer", training.optimizer.type).load()
    with answers_for(factory):
        return OptimizerSet(factory(training.optimizer, model, training.learning_rate), model)
