"""Objectives of a project's own: one stays near a frozen reference, one trains on what the model itself writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tests.project import TINY, lines_of_words, write_project
from tests.runs import rows

from foundry.cli.__main__ import main
from foundry.core.training import checkpoint as checkpoints

OBJECTIVES = """
import torch
from pydantic import Field
from torch import nn

from foundry.core.contracts import Params, Variant


class NearParams(Params):
    weight: float = Field(1.0, ge=0, description="of the divergence from the reference")


class Near(nn.Module):
    def __init__(self, params, context):
        super().__init__()
        self.weight, self.context, self.reference = params.weight, context, context.reference()
        assert not any(parameter.requires_grad for parameter in self.reference.parameters())

    def forward(self, model, batch):
        with torch.no_grad():
            expected = self.context.forward(self.reference, batch).log_softmax(-1)

        def read(hidden, head, aux):
            total, count, of_loss = self.context.loss(hidden, head, batch)
            divergence = (expected.exp() * (expected - head(hidden).log_softmax(-1))).sum(-1)  # (B, T)
            divergence = divergence if batch.loss_weight is None else divergence * batch.loss_weight
            return total + self.weight * divergence.sum(), count, {**aux, **of_loss, "divergence": divergence.mean(1)}

        return self.context.forward(model, batch, read)


class OnPolicy(nn.Module):
    def __init__(self, params, context):
        super().__init__()
        self.context = context

    def forward(self, model, batch):
        prompt = batch.tokens[:, :8]
        written = self.context.generate(prompt, batch.tokens.size(1) - 8, seeds=batch.tokens.sum(1).tolist())
        ids = torch.cat([prompt, written], 1)

        def read(hidden, head, aux):
            targets = batch._replace(targets=ids[:, 1:], loss_weight=None)
            total, count, _ = self.context.loss(hidden[:, :-1], head, targets)
            return total, count, {**aux, "first_written": written[:, 0].float()}

        return model(ids, read=read)[0]


VARIANTS = [
    Variant("objective", "near", f"{__name__}:Near", NearParams, "next tokens, near the model as it began"),
    Variant("objective", "on_policy", f"{__name__}:OnPolicy", Params, "what the model writes itself"),
]
"""

EXPERIMENT = f"""{TINY}
training:
  {{max_iters: 6, batch_size: 4, learning_rate: 1e-2, schedule: {{type: constant, warmup: 0}}, threads: 1,
   eval_tokens: 64, eval_interval: 0}}
logging: {{sample_tokens: 0, log_interval: 1}}
checkpoints: {{save_interval: 3}}
"""


@pytest.fixture
def project(working_folder) -> Path:
    files = {"experiments/tiny.yaml": EXPERIMENT, "variants/objectives.py": OBJECTIVES}
    return write_project(working_folder, {**files, "corpus.txt": lines_of_words(30)})


def train(out: Path, *sets: str) -> Path:
    assert main(["train", "experiments/tiny.yaml", "--out", str(out), *(f"--set={each}" for each in sets)]) == 0
    return out


def saved(run: Path, step: int = 6) -> checkpoints.Checkpoint:
    return checkpoints.load(checkpoints.path_of(run / "checkpoints", step))


def said(run: Path, figure: str) -> list[float]:
    return [row[figure] for row in rows(run)]


def same(a: checkpoints.Checkpoint, b: checkpoints.Checkpoint) -> bool:
    return all(
        torch.equal(tensor, b.tensors[group][name])
        for group, tensors in a.tensors.items()
        for name, tensor in tensors.items()
    )


def test_an_objective_stays_near_a_model_that_it_owns(project):
    """Which is neither trained nor saved, and costs the training nothing where it has no weight."""
    usual = train(project / "usual")
    ignored, near = (train(project / str(n), f"training.objective={{type: near, weight: {n}}}") for n in (0, 100))
    assert same(saved(usual), saved(ignored))
    for group in ("model", "optimizer"):
        assert saved(near).tensors[group].keys() == saved(usual).tensors[group].keys()
    assert abs(said(near, "divergence")[0]) < 1e-5  # the model has not moved yet
    assert 0 < said(near, "divergence")[-1] < said(ignored, "divergence")[-1] / 2


@pytest.mark.parametrize("objective", ["near", "on_policy"])
def test_what_goes_on_comes_to_the_same(project, objective):
    """The reference is what the training began with, and what is written follows from the weights and the rows."""
    straight = train(project / "straight", f"training.objective={objective}")
    cut = project / "cut"
    shutil.copytree(straight, cut)
    (cut / "result.json").unlink()
    shutil.rmtree(checkpoints.path_of(cut / "checkpoints", 6))
    train(cut, f"training.objective={objective}")
    assert same(saved(straight), saved(cut))
    figure = {"near": "divergence", "on_policy": "first_written"}[objective]
    assert said(straight, figure) == said(cut, figure)


def test_a_reference_that_has_become_another_is_refused(project, capsys):
    first = train(project / "first")
    sets = (f"init_from={first}", "training.objective=near", "training.max_iters=8")
    second = train(project / "second", *sets)
    assert abs(said(second, "divergence")[0]) < 1e-5
    (second / "result.json").unlink()
    shutil.rmtree(checkpoints.path_of(second / "checkpoints", 8))
    shutil.rmtree(first)
    train(first, "seed=5")
    command = ["train", "experiments/tiny.yaml", "--out", str(second), *(f"--set={each}" for each in sets)]
    assert main(command) == 3
    assert "no longer has the weights that this training started with" in capsys.readouterr().err
