"""Mixtures of experts and expert retrieval in training, by the real command: they learn, what they change of themselves
once per step survives everything that happens beside the steps, and several ranks are as one."""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
from pathlib import Path

import pytest
import torch
from tests.processes import run_ranks
from tests.project import WORDS, working_in, write_project
from tests.runs import rows, saved
from torch import Tensor

from foundry.cli.__main__ import main
from foundry.core import load_experiment, load_run
from foundry.core.analyze import analyze
from foundry.core.config.mutate import mutate
from foundry.core.contracts import UsageError
from foundry.core.model import initialize, model_of
from foundry.core.run import EXPERT_FIELDS
from foundry.core.testing import assert_rounded, sums_of
from foundry.core.testing.rounding import rounding
from foundry.core.training.device import resolve
from foundry.core.training.metrics import FIELDS
from foundry.core.training.objective import TrainingContext, build_objective
from foundry.core.training.open_rows import open_rows
from foundry.core.training.validation import to_device

STEPS = 20
EXPERIMENT = f"""
model_args: {{n_layer: 2, n_head: 2, n_embd: 16, block_size: 16}}
data: {{dataset: {{type: text, path: corpus.txt}}, tokenizer: char}}
training: {{max_iters: {STEPS}, batch_size: 4, learning_rate: 3e-3, eval_interval: 0, threads: 1}}
logging: {{log_interval: 1, sample_tokens: 0}}
checkpoints: {{save_interval: 8, keep: 9}}
"""
BALANCED = "{type: moe_deepseek, bias_update_rate: 0.01}"
RETRIEVING = "{type: peer, n_experts: 256, heads: 2, top_k: 4, key_dim: 8, sparse_gradients: true}"
NORMED = "{type: peer, n_experts: 256, heads: 2, top_k: 4, key_dim: 8, query_norm: batchnorm}"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    corpus = " ".join(random.Random(0).choices(WORDS, k=1500))
    files = {"experiments/baseline.yaml": EXPERIMENT, "corpus.txt": corpus}
    with working_in(write_project(tmp_path_factory.mktemp("project"), files)) as folder:
        yield folder


def train(out: Path, ffn: str, *settings: str) -> Path:
    sets = [f"--set={setting}" for setting in (f"model_args.ffn={ffn}", *settings)]
    assert main(["train", "experiments/baseline.yaml", "--out", str(out), *sets]) == 0
    return out


def losses(run: Path) -> list[float]:
    return [row["train_loss"] for row in rows(run)]


def experts(row: dict) -> dict[str, float]:
    """What a row of metrics says of them."""
    return {key: row[key] for key in (*EXPERT_FIELDS, "moe_balance_loss") if key in row}


def assert_same(run: Path, reference: Path) -> None:
    """Every bit of the weights, the biases and statistics that are no weights, and the optimizer's state."""
    assert losses(run) == losses(reference)
    assert [experts(row) for row in rows(run)] == [experts(row) for row in rows(reference)]
    for group in ("model", "optimizer"):
        ours, theirs = saved(run, group), saved(reference, group)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("ffn", ["moe", BALANCED, RETRIEVING, NORMED])
def test_twenty_steps_lower_the_loss(project, tmp_path, ffn, optimizer):
    """By twice what is asked, at this rate: a processor that rounds otherwise goes other ways, under Muon soon."""
    settings = (f"training.optimizer={optimizer}", "training.learning_rate=1e-2")
    fallen = losses(train(tmp_path / "run", ffn, *settings))
    assert sum(fallen[-3:]) / 3 < fallen[0] - 0.1


@pytest.mark.parametrize("ffn", [BALANCED, RETRIEVING, NORMED])
def test_a_resumed_run_ends_with_the_same_bits(project, tmp_path, ffn):
    settings = ("training.optimizer=muon", "training.ema=0.9")
    whole = train(tmp_path / "whole", ffn, *settings)
    shutil.copytree(whole, tmp_path / "resumed")
    (tmp_path / "resumed" / "result.json").unlink()
    for step in (16, 20):
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / f"step-{step:08d}")
    assert_same(train(tmp_path / "resumed", ffn, *settings), whole)


@pytest.mark.parametrize("ffn", [BALANCED, RETRIEVING, NORMED])
@pytest.mark.parametrize("setting", ["training.gradient_checkpointing=true", "training.eval_interval=3"])
def test_what_is_computed_again_or_beside_changes_nothing(project, tmp_path, ffn, setting):
    assert_same(train(tmp_path / "other", ffn, setting), train(tmp_path / "plain", ffn))


def test_biases_follow_the_load_of_the_whole_step(project, tmp_path):
    """In micro-batches or at once: the same load in the first step, so the same biases after it."""
    runs = [
        train(tmp_path / f"{rows}", BALANCED, "training.max_iters=1", f"training.micro_batch={rows}") for rows in (1, 4)
    ]
    biases = [{n: t for n, t in saved(run, step=1).items() if "correction_bias" in n} for run in runs]
    assert len(biases[0]) == 2
    for name, bias in biases[0].items():
        assert torch.equal(bias, biases[1][name])
        assert bias.abs().max() == pytest.approx(0.01)


def test_a_run_tells_how_its_experts_are_used(project, tmp_path):
    """In every row that is logged, of all choices since the last one; in the table, in the result and on the screen."""
    first, run = (train(tmp_path / f"{n}", RETRIEVING, f"logging.log_interval={n}") for n in (1, 5))
    told = {row["step"]: experts(row) for row in rows(run) if experts(row)}
    assert list(told) == [5, 8, 10, 15, 16, 20]  # 8 and 16: checkpoints
    alone = [experts(row) for row in rows(first)]
    assert told[5]["expert_usage"] > max(each["expert_usage"] for each in alone[:5])
    assert told[5]["expert_unevenness"] < min(each["expert_unevenness"] for each in alone[:5])
    for usage, unevenness, largest in (each.values() for each in alone):
        assert 0 < usage < 1 < largest <= 256 / 4  # every token's queries want the same four
        assert 0 < unevenness < math.log(256)
    result = json.loads((run / "result.json").read_text())
    assert {key: result[key] for key in EXPERT_FIELDS} == told[20]
    with open(run / "metrics.csv") as file:
        table = [{key: json.loads(cell) for key, cell in row.items() if cell} for row in csv.DictReader(file)]
    assert table == rows(run)


def test_auxiliary_losses_are_recorded_with_every_step(project, tmp_path):
    run = train(tmp_path / "run", "{type: moe_8x2, aux_loss: 0.5}", "logging.log_interval=5", "training.micro_batch=2")
    for row in rows(run):
        assert row["moe_balance_loss"] == pytest.approx(2 * 0.5 * 2, rel=0.3)  # layers, weight, top_k


@pytest.fixture(scope="module")
def documents(project) -> Path:
    """Many short ones, whose rows end in padding: each row, and so each micro-batch, has another number of tokens."""
    return write_project(project / "texts", {f"{n}.txt": "the tree then there " * (1 + n % 3) for n in range(40)})


def first_step(run: Path) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The figures of a run's only step, and the gradients, of which Adam's first means are a tenth."""
    means = {name: tensor for name, tensor in saved(run, "optimizer", step=1).items() if name.endswith("/exp_avg")}
    figures = {key: value for key, value in rows(run)[0].items() if key.endswith("_loss") or key in EXPERT_FIELDS}
    return figures | {"grad_norm": rows(run)[0]["grad_norm"]}, means


def assert_same_step(run: Path, reference: Path) -> None:
    """But for rounding: the sums of 8 rows of 16 tokens, and what two layers of width 16 make of each."""
    sums = [16] * 40 + [8 * 16]
    (ours, our_means), (theirs, their_means) = first_step(run), first_step(reference)
    assert ours == pytest.approx(theirs, rel=rounding(torch.float32, *sums))
    assert our_means.keys() == their_means.keys()
    for name, mean in their_means.items():
        assert_rounded(our_means[name], mean, *sums)


ROUTED = {
    "moe": "{type: moe, n_experts: 8, aux_loss: 0.5}",
    "moe by sigmoids, balanced both ways": "{type: moe_deepseek, aux_loss: 0.5, bias_update_rate: 0.01}",
    "peer": RETRIEVING,
    "peer with batchnorm": NORMED,
}
ONE_STEP = (
    "training.max_iters=1", "training.batch_size=8", "training.grad_clip=0",
    "training.loss={type: cross_entropy, z_loss: 0.1}",
)  # fmt: skip


@pytest.mark.parametrize("ffn", [name for name in ROUTED if "batchnorm" not in name])
def test_a_step_does_not_depend_on_micro_batches(project, documents, tmp_path, ffn):
    """Its losses, all that is beside the loss, its gradients, and how its experts were used."""
    whole, *pieces = (
        train(tmp_path / str(n), ROUTED[ffn], *ONE_STEP, f"data.dataset.path={documents}", f"training.micro_batch={n}")
        for n in (8, 1, 2)
    )
    for run in pieces:
        assert_same_step(run, whole)


@pytest.mark.parametrize(
    "ffn", [pytest.param(name, marks=pytest.mark.slow if name != "moe" else ()) for name in ROUTED]
)
def test_a_step_does_not_depend_on_ranks(project, documents, tmp_path, ffn):
    settings = (*ONE_STEP, f"data.dataset.path={documents}")
    whole = train(tmp_path / "whole", ROUTED[ffn], *settings)
    train_on_two_ranks(tmp_path / "two", ROUTED[ffn], *settings)
    assert_same_step(tmp_path / "two", whole)


def test_what_reads_a_whole_batch_is_not_cut(project, tmp_path, capsys):
    command = ["train", "experiments/baseline.yaml", "--out", str(tmp_path / "run"), f"--set=model_args.ffn={NORMED}"]
    assert main([*command, "--set=training.micro_batch=2"]) == 3
    said = capsys.readouterr().err
    assert "training.micro_batch: 2 cuts a batch of 4 rows" in said
    assert "blocks.0.ffn.query_norm reads all rows of a step at once" in said


@pytest.mark.parametrize("ffn", ["moe_8x2", RETRIEVING, NORMED])
def test_what_fills_up_a_documents_last_row_is_not_counted(project, tmp_path, ffn):
    """The padding of real rows, whatever it is: nothing but what becomes of itself depends on it."""
    short = write_project(tmp_path, {f"{n}.txt": "the tree " * (1 + n % 3) for n in range(40)})
    settings = [f"model_args.ffn={ffn}", f"data.dataset.path={short}"]
    experiment = load_experiment("experiments/baseline.yaml", settings)
    batch = open_rows(experiment).batch(0, 8)
    assert 0.2 < batch.is_token.mean() < 0.9
    model = model_of(experiment, 19)
    initialize(model, seed=0)
    objective = build_objective(TrainingContext(experiment, model, resolve(experiment.training)))
    model.train()
    tensors = to_device(batch, torch.device("cpu"))
    first, second = (
        objective(model, tensors._replace(tokens=tensors.tokens.where(tensors.is_token, pad)))[::2] for pad in (0, 3)
    )
    for name, value in {"loss": first[0], **first[1]}.items():
        same = {"loss": second[0], **second[1]}[name]
        assert_rounded(value, same, *sums_of(model, tokens=8 * 16), dtype=torch.float32)
    choices = 2 if ffn == "moe_8x2" else 2 * 4
    assert {int(load.sum()) for name, load in first[1].items() if name.endswith("_load")} == {
        batch.is_token.sum() * choices
    }


def test_without_experts_nothing_is_told(project, tmp_path):
    run = train(tmp_path / "run", "dense")
    assert {key for row in rows(run) for key in row} <= {*FIELDS}
    assert (run / "metrics.csv").read_text().splitlines()[0] == ",".join(FIELDS)
    assert not experts(json.loads((run / "result.json").read_text()))


def train_on_two_ranks(out: Path, ffn: str, *settings: str) -> None:
    sets = [f"--set={setting}" for setting in (f"model_args.ffn={ffn}", *settings)]
    run_ranks(2, Path.cwd(), ["train", "experiments/baseline.yaml", "--out", str(out), *sets])


@pytest.mark.parametrize("ffn", [BALANCED, RETRIEVING, NORMED])
def test_two_ranks_are_as_one(project, tmp_path, ffn):
    smooth = "training.optimizer={type: adamw, eps: 1e-2}"  # which does not blow up the noise of gradients near 0
    one = train(tmp_path / "one", ffn, smooth)
    train_on_two_ranks(tmp_path / "two", ffn, smooth)
    # A sum in another order may choose another expert some day, but not in the first steps.
    sums = sums_of(load_run(one).model, tokens=4 * 16) * 8
    allowed = rounding(torch.float32, *sums)
    assert losses(tmp_path / "two")[:8] == pytest.approx(losses(one)[:8], rel=allowed)
    if ffn != RETRIEVING:
        ours, theirs = saved(tmp_path / "two", step=8), saved(one, step=8)
        for name in (name for name in theirs if "bias" in name or "running" in name):
            assert_rounded(ours[name], theirs[name], *sums)


def test_where_the_user_looked_for_it(project):
    base = load_experiment("experiments/baseline.yaml")
    for variant in ("moe", "peer"):
        with pytest.raises(UsageError, match=f"did you mean: ffn {variant}"):
            mutate(base, "attention", variant)
        assert mutate(base, "ffn", variant).experiment.model_args.ffn.type == variant


def test_the_first_layers_may_be_dense(project, tmp_path):
    """As DeepSeek-V3's are."""
    file = tmp_path / "experiment.yaml"
    file.write_text("model_args: {n_layer: 3, n_embd: 32, ffn: moe_8x2}\nlayers: {'0': {ffn: dense}}\n")
    kinds = [type(block.ffn).__name__ for block in model_of(load_experiment(file), 19).blocks]
    assert kinds == ["Dense", "MixtureOfExperts", "MixtureOfExperts"]


def test_only_what_a_token_uses_is_counted(project, tmp_path):
    """FLOPs and active parameters do not grow with the number of experts, but for the router's."""
    figures = []
    for name, ffn in (
        ("dense", "dense"),
        ("few", "{type: moe, n_experts: 8}"),
        ("many", "{type: moe, n_experts: 64}"),
        ("small", "{type: peer, n_experts: 1024, heads: 1}"),
        ("large", "{type: peer, n_experts: 16384, heads: 1}"),
    ):
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"model_args: {{n_layer: 2, n_embd: 96, block_size: 32, ffn: '{ffn}'}}\n".replace("'", ""))
        figures.append(analyze(load_experiment(file), 19))
    dense, few, many, small, large = (each["flops_per_token_by_part"]["ffn"] for each in figures)
    router = 2 * 2 * 96  # a multiplication and an addition, two layers, n_embd: for each expert
    assert few - 8 * router == pytest.approx(dense, rel=0.05)
    assert many - few == 56 * router
    assert large - small == 2 * 2 * (128 - 32) * 64  # keys of both parts together, of key_dim 64
    of_experts = 2 * 2 * 2 * 16 * 96  # two products, by two layers, of 16 experts
    queries_and_keys = 2 * 2 * (96 * 64 + 32 * 64 + 16 * 64)  # all keys of each part, then those of the best again
    assert small == queries_and_keys + 3 / 2 * of_experts  # swiglu: a third row
    assert figures[2]["parameters"] > 5 * figures[1]["parameters"]
    assert figures[2]["active_parameters"] - figures[1]["active_parameters"] == 2 * 56 * 96
