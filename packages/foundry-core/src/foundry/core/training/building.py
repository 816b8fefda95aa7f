"""How the model of a training is made: without memory first, then shared among the ranks, then filled.

    model = model_of(experiment, vocab_size, "meta")        nothing but shapes
    trained = parallelize(model, world, device, training)  gives it memory, as much as this rank is to hold
    origin = fill(model, experiment, saved, ...)           the seed's first weights, another's, or a checkpoint's
    optimizer = build_optimizer(model, experiment)

A model that ranks share differs in `parallelize` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from foundry.core.blame import answers_for
from foundry.core.contracts import Origin
from foundry.core.loading import restore_weights
from foundry.core.model import GPT, initialize
from foundry.core.model.init import materialize, require_filled
from foundry.core.training.checkpoint import Checkpoint
from foundry.core.training.device import Device
from foundry.core.training.distributed import World
from foundry.core.training.init_from import source_of
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
    # Adapters come first, so that all of the following sees them.
    model.gradient_checkpointing = training.gradient_checkpointing
    # FSDP cuts here, where nothing has memory yet: each rank then gets that of its own part.
    materialize(model, device.torch)
    called = cast(nn.Module, torch.compile(model, dynamic=False)) if device.compile else model
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
        PluginError: a parameter or a buffer of a plugin's module is filled by nothing.
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


def build_optimizer(model: GPT, experiment: Experiment) -> OptimizerSet:
    """What moves the weights of a model that is filled.

    Raises:
        PluginError: a plugin's optimizer cannot be made.
    """
    training = experiment.training
    factory = experiment.registry.variant("optimizer", training.optimizer.type).load()
    with answers_for(factory):
        return OptimizerSet(factory(training.optimizer, model, training.learning_rate), model)
