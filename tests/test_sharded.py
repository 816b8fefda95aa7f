"""A model whose weights FSDP2 has cut, on one rank, goes through the same objective, optimizer and checkpoints as a
model that nobody has cut, and is trained to the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from foundry.core.config import Experiment, from_plain
from foundry.core.contracts import Batch
from foundry.core.loading import rebuilt
from foundry.core.model import GPT, model_of
from foundry.core.model.init import materialize
from foundry.core.training import checkpoint as checkpoints
from foundry.core.training.building import build_optimizer, fill, parallelize
from foundry.core.training.checkpoint import Checkpoint
from foundry.core.training.device import resolve
from foundry.core.training.distributed import World
from foundry.core.training.objective import TrainingContext, build_objective
from foundry.core.training.optimization import MovingAverage, clip_gradients
from foundry.core.training.progress import Progress
from foundry.core.training.weights import Weights

VOCAB, STEPS = 23, 3


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("ranks") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def experiment_with(**model_args) -> Experiment:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8}
    training = {"optimizer": "adamw", "learning_rate": 1e-2, "threads": 1, "kernels": "reference"}
    training |= {"gradient_checkpointing": True}
    return from_plain({"model_args": {**sizes, **model_args}, "training": training})


def plain(model: GPT, experiment: Experiment) -> nn.Module:
    return parallelize(model, World(), resolve(experiment.training), experiment.training)


def sharded(model: GPT, experiment: Experiment) -> nn.Module:
    model.gradient_checkpointing = True
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    materialize(model, "cpu")
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    return model


class Trained:
    """Some steps of a training, without the files around it."""

    def __init__(
        self, experiment: Experiment, share: Callable[[GPT, Experiment], nn.Module], saved: Checkpoint | None = None
    ) -> None:
        self.model = model_of(experiment, VOCAB, "meta")
        self.called = share(self.model, experiment)
        fill(self.model, experiment, saved, source="a test")
        self.weights = Weights(self.model, build_optimizer(self.model, experiment), MovingAverage(self.model, 0.9))
        self.objective = build_objective(TrainingContext(experiment, self.model, resolve(experiment.training)))
        self.step = 0
        if saved:
            self.step = saved.state["step"]
            self.weights.restore(saved.tensors, saved.state["ema_updates"])

    def train(self, steps: int) -> list[float]:
        """The losses, and the norms of the gradients."""
        figures = []
        for _ in range(steps):
            generator = torch.Generator().manual_seed(self.step)
            ids = torch.randint(VOCAB, (4, 9), generator=generator)
            total, count, _ = self.objective(self.called, Batch(ids[:, :-1], ids[:, 1:]))
            (total / count).backward()
            norm = clip_gradients(self.weights.optimizer.parameters, 0.1)
            self.weights.optimizer.step(1.0)
            self.weights.optimizer.zero_grad()
            self.weights.ema.update()
            self.step += 1
            figures += [total.item(), norm.item()]
        return figures

    def save(self, folder: Path) -> Checkpoint:
        """What comes back from a disk."""
        state = {**vars(Progress(micro_batch=4)), "step": self.step, "ema_updates": self.weights.ema.updates}
        state |= {"identity": "", "loader": {}, "tokenizer": "", "plugins": ""}
        return checkpoints.load(checkpoints.save(folder, self.step, Checkpoint(self.weights.tensors(), state)))


def assert_same(ours: Checkpoint, theirs: Checkpoint) -> None:
    for group in ("model", "optimizer", "ema"):
        a, b = ours.tensors[group], theirs.tensors[group]
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), group


@pytest.mark.parametrize(
    "model_args",
    [{}, {"tie_embeddings": False, "norm": "layernorm", "bias": True}, {"ffn": {"type": "moe", "n_experts": 4}}],
    ids=["tied", "head of its own", "moe"],
)
def test_a_model_that_is_cut_trains_as_one_that_is_not(one_rank, tmp_path, model_args):
    experiment = experiment_with(**model_args)
    whole, cut = Trained(experiment, plain), Trained(experiment, sharded)
    assert cut.train(STEPS) == whole.train(STEPS)
    saved = cut.save(tmp_path / "cut")
    assert_same(saved, whole.save(tmp_path / "whole"))

    loaded = rebuilt(experiment, VOCAB, saved.judged_weights, device="cpu", source="a test").eval()
    ids = torch.arange(16).view(2, 8)
    with torch.no_grad(), whole.weights.judged() as expected, cut.weights.judged() as judged:
        answers: list[Tensor] = [model.eval()(ids)[0] for model in (expected, judged, loaded)]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])

    again = Trained(experiment, sharded, saved)
    whole.model.train()
    assert again.train(STEPS) == whole.train(STEPS)
    assert_same(again.save(tmp_path / "cut"), whole.save(tmp_path / "whole"))
