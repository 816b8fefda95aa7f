"""What the trainer promises about the numbers: how a step is computed and what is done beside it change nothing.

The real command runs in this process, on a folder of short documents, so that rows end in padding and micro-batches
differ in how many tokens count.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import math
import random
import re
import shutil
import signal
import weakref
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.documents import faults
from tests.doses import not_in_small_doses
from tests.project import WORDS, working_in, write_project
from tests.runs import rows, saved

from foundry.cli import progress
from foundry.cli.__main__ import main
from foundry.core import load_experiment, load_run
from foundry.core.analyze import flops_per_token
from foundry.core.contracts import Batch
from foundry.core.model import initialize, model_of
from foundry.core.run import Run, default_run
from foundry.core.system.signals import StopRequest
from foundry.core.testing import assert_rounded, sums_of
from foundry.core.testing.rounding import rounding
from foundry.core.training import checkpoint as checkpoints
from foundry.core.training import clock, diagnosis, jobs, run_training
from foundry.core.training import device as devices
from foundry.core.training import train as foundry_train
from foundry.core.training.device import Device
from foundry.core.training.distributed import World
from foundry.core.training.feed import Feed
from foundry.core.training.objective import summed
from foundry.core.training.open_rows import open_rows
from foundry.core.training.optimization import OptimizerSet
from foundry.core.training.profile import Profile
from foundry.core.training.reporter import PlainReporter
from foundry.core.training.run_training import build

STEPS, ROWS, BLOCK, RATE = 20, 4, 16, 3e-3
EXPERIMENT = f"""
model_args: {{n_layer: 2, n_head: 2, n_embd: 16, block_size: {BLOCK}}}
data: {{dataset: {{type: text, path: corpus}}, tokenizer: char}}
training: {{max_iters: {STEPS}, batch_size: {ROWS}, learning_rate: {RATE}, eval_interval: 0, threads: 1}}
logging: {{log_interval: 5, sample_tokens: 0}}
checkpoints: {{save_interval: 0}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    draw = random.Random(0)
    files = {f"corpus/{n:02d}.txt": " ".join(draw.choices(WORDS, k=draw.randint(2, 8))) for n in range(80)}
    files["experiments/tiny.yaml"] = EXPERIMENT
    with working_in(write_project(tmp_path_factory.mktemp("project"), files)) as folder:
        yield folder


def train(out: Path, *settings: str, options: tuple[str, ...] = ()) -> Path:
    """`foundry train experiments/tiny.yaml --out OUT --set SETTING ...`, which must succeed."""
    sets = [f"--set={setting}" for setting in settings]
    assert main(["train", "experiments/tiny.yaml", "--out", str(out), *sets, *options]) == 0
    return out


@pytest.fixture(scope="module")
def plain(project) -> Path:
    """The run that others are compared with."""
    return train(project / "plain")


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def assert_same_bits(run: Path, reference: Path) -> None:
    """Losses, gradient norms and final weights."""
    for ours, theirs in zip(rows(run), rows(reference), strict=True):
        assert [ours[key] for key in ("train_loss", "grad_norm")] == [
            theirs[key] for key in ("train_loss", "grad_norm")
        ]
    theirs = saved(reference)
    for name, tensor in saved(run).items():
        assert torch.equal(tensor, theirs[name]), name


def assert_same_but_for_rounding(run: Path, reference: Path) -> None:
    """Losses, gradient norms and final weights: each step may add to the rounding of those before. So that it does not
    blow up the noise of gradients near 0 either, give Adam an eps: `SMOOTH`."""
    sums = sums_of(load_run(reference).model, tokens=ROWS * BLOCK) * STEPS
    for ours, theirs in zip(rows(run), rows(reference), strict=True):
        for key in ("train_loss", "grad_norm"):
            assert ours[key] == pytest.approx(theirs[key], rel=rounding(torch.float32, *sums)), (key, ours["step"])
    theirs = saved(reference)
    for name, tensor in saved(run).items():
        assert_rounded(tensor, theirs[name], *sums, size=1.0)  # gains begin there


def stops_after(step: int) -> type[PlainReporter]:
    """A reporter of a training that gets a signal at this step."""

    class Stops(PlainReporter):
        def step(self, row, *progress):
            if row["step"] == step:
                signal.raise_signal(signal.SIGTERM)

    return Stops


def best_at_first():
    """The evaluation of a training, of which the first one comes to 10 nats less than it does."""
    real, better = jobs.validation_loss, iter([10.0])

    def evaluate(*arguments, **options):
        scored = real(*arguments, **options)
        return scored._replace(val_loss=scored.val_loss - next(better, 0.0))

    return evaluate


ONE_STEP = "training.max_iters=1"
SMOOTH = "training.optimizer={type: adamw, eps: 1e-2}"


# ---- a step -----------------------------------------------------------------------------------------------------


def test_the_first_step_by_hand(plain):
    """Its loss is the mean over the tokens that count, and its gradient that mean's."""
    config, _, model = load_run(plain)
    initialize(model, config.seed)
    batch = open_rows(config, Run(plain)).batch(0, ROWS)
    counts = torch.from_numpy(batch.loss_weight) > 0
    assert 0 < counts.sum() < counts.numel()  # some rows end in padding
    logits, _ = model(torch.from_numpy(batch.tokens))
    loss = torch.nn.functional.cross_entropy(logits[counts], torch.from_numpy(batch.targets)[counts])
    loss.backward()
    norm = torch.nn.utils.get_total_norm(parameter.grad for parameter in model.parameters())
    allowed = rounding(torch.float32, *sums_of(model, tokens=ROWS * BLOCK))
    assert rows(plain)[0]["train_loss"] == pytest.approx(loss.item(), rel=allowed)
    assert rows(plain)[0]["grad_norm"] == pytest.approx(norm.item(), rel=allowed)
    assert rows(plain)[0]["positions"] == ROWS * BLOCK


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_gradient_accumulation_is_the_full_batch(plain, tmp_path, micro_batch):
    reference = train(tmp_path / "whole", SMOOTH)
    accumulated = train(tmp_path / "accumulated", SMOOTH, f"training.micro_batch={micro_batch}")
    assert_same_but_for_rounding(accumulated, reference)


def test_gradient_checkpointing_changes_nothing(tmp_path, project):
    dropout = "model_args.dropout=0.1"
    reference = train(tmp_path / "kept", SMOOTH, dropout)
    recomputed = train(tmp_path / "recomputed", SMOOTH, dropout, "training.gradient_checkpointing=true")
    assert_same_but_for_rounding(recomputed, reference)


def test_the_moving_average_by_hand(project, tmp_path):
    run = train(tmp_path / "run", "training.ema=0.99", "training.max_iters=1")
    config, tokenizer, judged = load_run(run)
    first = model_of(config, tokenizer.vocab_size)
    initialize(first, config.seed)
    initial, last = dict(first.named_parameters()), saved(run, step=1)
    for name, average in judged.named_parameters():
        expected = 2 / 11 * initial[name] + 9 / 11 * last[name]  # update 1 decays by (1 + 1) / (10 + 1)
        assert_rounded(average, expected, 2)


def test_bf16_learns_as_fp32_does(plain, tmp_path):
    run = train(tmp_path / "run", "training.precision=bf16")
    assert abs(result(run)["val_loss"] - result(plain)["val_loss"]) < 0.02
    assert rows(run)[0]["train_loss"] != rows(plain)[0]["train_loss"]  # and is computed in bf16
    assert all(tensor.dtype == torch.float32 for tensor in saved(run).values())


@pytest.mark.slow
@not_in_small_doses
def test_compiled_is_as_eager(project, tmp_path):
    eager = train(tmp_path / "eager", SMOOTH)
    assert_same_but_for_rounding(train(tmp_path / "run", SMOOTH, "training.compile=true"), eager)


@pytest.mark.slow
def test_without_a_compiler_nothing_is_compiled(project, tmp_path, monkeypatch, capsys):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "/no/such/compiler"))
    torch.compiler.reset()
    sets = ("--set=training.compile=true", "--set=model_args.n_embd=8")  # of another size, so that no cache has it
    assert main(["train", "experiments/tiny.yaml", "--out", str(tmp_path / "run"), *sets]) == 6
    assert "--set training.compile=false" in capsys.readouterr().err


def test_what_layers_report_counts_by_the_tokens_of_each_row():
    """A row that is half padding says half as much; what is counted is counted as it is."""
    reported = {"a_loss": torch.tensor([1.0, 2.0]), "mean": torch.tensor(5.0), "b_count": torch.tensor([7, 8, 9])}
    ids = torch.zeros(2, 4, dtype=torch.long)
    for weight, a, mean in ((None, 12.0, 40.0), (torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0]]), 5.0, 20.0)):
        aux = summed(reported, Batch(ids, ids, weight))
        assert (aux["a_loss"].item(), aux["mean"].item()) == (a, mean)
        assert aux["b_count"].tolist() == [7, 8, 9]


def test_a_clipped_step_by_hand(project, tmp_path):
    """What Adam has seen of the gradient after a step says how long it was: as clipping leaves it."""
    run = train(tmp_path / "run", "training.optimizer={type: adamw, beta1: 0.5}", "training.grad_clip=0.01", ONE_STEP)
    assert rows(run)[0]["grad_norm"] > 0.1  # before clipping
    averages = [each for name, each in saved(run, "optimizer", step=1).items() if name.endswith("/exp_avg")]
    assert torch.nn.utils.get_total_norm(averages).item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_a_seed_decides_first_weights_order_and_dropout(project, tmp_path):
    """All three, each by itself. That a run takes what is compared here, the first step by hand says."""
    settings = ("model_args.dropout=0.1", ONE_STEP)
    runs = [train(tmp_path / seed, f"seed={seed}", *settings) for seed in ("7", "8")]
    weights, batches = [], []
    for run in runs:
        config, _, model = load_run(run)
        initialize(model, config.seed)
        weights.append({name: each.detach().clone() for name, each in model.named_parameters() if each.ndim > 1})
        batches.append(open_rows(config, Run(run)).batch(0, ROWS).tokens)
    assert (batches[0] != batches[1]).any()
    assert not torch.equal(*(saved(run, "rng", step=1)["cpu.0"] for run in runs))
    drawn = [tensor.flatten()[:8].tolist() for each in weights for tensor in each.values()]
    assert len({tuple(each) for each in drawn}) == len(drawn)  # nor do two matrices of a model begin alike


# ---- beside the steps ---------------------------------------------------------------------------------------------


def test_what_is_done_beside_the_steps_changes_no_weight(project, tmp_path, monkeypatch):
    """Nor does it touch the best checkpoint, be it the first."""
    settings = ("model_args.dropout=0.1", "training.ema=0.9")
    reference = saved(train(tmp_path / "undisturbed", *settings))
    busy = (
        "training.eval_interval=3",
        "training.eval_tokens=64",
        "logging.sample_interval=2",
        "logging.log_interval=1",
    )
    busy += ("logging.sample_tokens=9", "checkpoints.save_interval=4", "checkpoints.keep=1")
    monkeypatch.setattr(jobs, "validation_loss", best_at_first())
    run = train(tmp_path / "busy", *settings, *busy, options=("--profile",))
    for name, tensor in saved(run).items():
        assert torch.equal(tensor, reference[name]), name
    scored = {row["step"]: row["val_loss"] for row in rows(run) if "val_loss" in row}
    assert [*scored] == [3, 6, 9, 12, 15, 18, 20]
    assert (result(run)["best_step"], result(run)["best_val_loss"]) == (3, scored[3])
    assert checkpoints.steps(run / "checkpoints") == [3, 20]
    trace = json.loads((run / "profile" / "trace.json").read_text())
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert "aten::mm" in names
    assert sum(name.startswith("Optimizer.step#") for name in names) == 5
    assert "aten::mm" in (run / "profile" / "operators.txt").read_text()


def test_where_all_is_due_the_row_comes_before_the_checkpoint_and_the_sample_last(project, tmp_path, monkeypatch):
    """What fails later has lost nothing of what came before it."""
    out, told = tmp_path / "run", []
    real = checkpoints.save

    def save(folder, step, checkpoint):
        assert Run(out).metrics_file.read_text().count("\n") == step, "every row is on disk"
        told.append((step, "save"))
        real(folder, step, checkpoint)

    class Told(PlainReporter):
        def step(self, row, progress, seconds_left):
            told.append((row["step"], "row with its validation loss" if "val_loss" in row else "row"))

        def sample(self, step, text):
            told.append((step, "sample"))

    monkeypatch.setattr(checkpoints, "save", save)
    settings = ["training.max_iters=4", "training.eval_interval=4", "logging.log_interval=2"]
    settings += ["logging.sample_interval=4", "logging.sample_tokens=2", "checkpoints.save_interval=2"]
    foundry_train(load_experiment("experiments/tiny.yaml", settings), out, reporter=Told())
    assert told == [
        (2, "row"),
        (2, "save"),
        (4, "row with its validation loss"),
        (4, "save"),
        (4, "sample"),
    ]


def test_a_trainer_is_freed_at_once(project, tmp_path):
    """A worker trains one model after the other: none waits for the collector, nor does a signal meet it there."""
    (tmp_path / "run").mkdir()
    made = build(Run(tmp_path / "run"), load_experiment("experiments/tiny.yaml"), World(), PlainReporter(),
                 StopRequest(), False)  # fmt: skip
    gone = weakref.ref(made), weakref.ref(made.model)
    gc.disable()
    try:
        del made
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


def test_jobs_go_on_from_their_own_states_and_from_those_of_before_there_were_jobs(project, tmp_path):
    run = Run(train(tmp_path / "run", "training.eval_interval=8", "logging.sample_tokens=2"))
    state = checkpoints.load(checkpoints.path_of(run.checkpoints, STEPS)).state
    flat = {key: value for each in state["jobs"].values() for key, value in each.items()}
    assert flat["evaluated_at"] == flat["saved_at"] == STEPS
    before = {key: value for key, value in state.items() if key != "jobs"} | flat
    for saved_state in (state, before):
        experiment = load_experiment("experiments/tiny.yaml", ["logging.sample_tokens=2"])
        (tmp_path / "other").mkdir(exist_ok=True)
        made = build(Run(tmp_path / "other"), experiment, World(), PlainReporter(), StopRequest(), False).jobs
        assert made.state() != state["jobs"]
        made.restore(saved_state)
        assert made.state() == state["jobs"]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
def test_learning_rates_are_the_closed_forms(project, tmp_path, schedule):
    warmup, least, decay = 4, 0.1, 0.5
    given = {
        "constant": "",
        "linear": f", min_factor: {least}",
        "cosine": f", min_factor: {least}",
        "wsd": f", min_factor: {least}, decay: {decay}",
    }
    run = train(tmp_path / "run", f"training.schedule={{type: {schedule}, warmup: {warmup}{given[schedule]}}}")
    after = {
        "constant": lambda share, left: 1.0,
        "linear": lambda share, left: 1 - (1 - least) * share,
        "cosine": lambda share, left: least + (1 - least) * (1 + math.cos(math.pi * share)) / 2,
        "wsd": lambda share, left: least + (1 - least) * min(1.0, left / decay),
    }[schedule]
    for step, row in enumerate(rows(run)):
        if step < warmup:
            factor = (step + 1) / (warmup + 1)
        else:
            factor = after((step - warmup) / (STEPS - warmup), 1 - step / STEPS)
        assert row["lr"] == pytest.approx(RATE * factor, rel=1e-9), step


# ---- how long -----------------------------------------------------------------------------------------------------


def test_tokens_are_what_is_trained_on_and_positions_what_is_computed(plain):
    """Most documents are shorter than a row or end within one: a good part of the positions is padding."""
    experiment = load_experiment("experiments/tiny.yaml")
    each = open_rows(experiment)
    supervised = [each.batch(ROWS * n, ROWS * (n + 1)).loss_weight.sum() for n in range(STEPS)]
    assert [row["tokens"] for row in rows(plain)] == torch.tensor(supervised).cumsum(0).tolist()
    assert [row["positions"] for row in rows(plain)] == [ROWS * BLOCK * (n + 1) for n in range(STEPS)]
    done = result(plain)
    assert (done["tokens"], done["positions"]) == (sum(supervised), STEPS * ROWS * BLOCK)
    assert done["tokens"] < 0.95 * done["positions"]
    _, tokenizer, _ = load_run(plain)
    assert done["flops"] == pytest.approx(3 * flops_per_token(experiment, tokenizer.vocab_size) * done["positions"])


def test_budgets_of_tokens_and_flops_round_up_to_whole_steps(plain, tmp_path):
    seven = rows(plain)[6]["tokens"]
    for tokens, steps in ((seven, 7), (seven + 1, 8)):
        run = train(tmp_path / f"{tokens}", f"training.tokens={tokens}")
        assert result(run)["step"] == steps
        assert result(run)["tokens"] == rows(plain)[steps - 1]["tokens"] >= tokens
    _, tokenizer, _ = load_run(plain)
    per_position = 3 * flops_per_token(load_experiment("experiments/tiny.yaml"), tokenizer.vocab_size)
    run = train(tmp_path / "flops", f"training.flops={6.5 * per_position * ROWS * BLOCK}")
    assert result(run)["step"] == 7
    assert result(run)["flops"] == pytest.approx(7 * per_position * ROWS * BLOCK)


def test_what_a_text_wastes_on_padding_is_said(project, tmp_path, capsys):
    sizes = ("model_args.block_size=64", "training.max_iters=2")
    train(tmp_path / "run", *sizes)
    said = capsys.readouterr().err
    share = int(re.search(r"note: (\d+)% of the positions are padding: .*block_size 64; a smaller one", said)[1])
    assert share == round(100 * (1 - _tokens_per_row(64) / 64)) > 25
    assert main(["train", "experiments/tiny.yaml", "--dry-run", *(f"--set={each}" for each in sizes), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    done = result(tmp_path / "run")
    assert [planned[key] for key in ("tokens", "positions")] == [done[key] for key in ("tokens", "positions")]
    assert planned["padding"] == pytest.approx(1 - _tokens_per_row(64) / 64)
    assert planned["positions_per_step"] == 64 * ROWS


def _tokens_per_row(block_size: int) -> float:
    each = open_rows(load_experiment("experiments/tiny.yaml", [f"model_args.block_size={block_size}"]))
    return each.batch(0, each.rows_per_epoch).loss_weight.sum() / each.rows_per_epoch


def test_a_run_whose_tokens_were_positions_goes_on_and_is_counted_anew(plain, tmp_path, monkeypatch):
    """Of a version before `positions`: its metrics and checkpoints say how many positions there were as `tokens`."""
    run, often = tmp_path / "run", ("checkpoints.save_interval=8", "checkpoints.keep=9")
    train(run, *often)
    (run / "result.json").unlink()
    folder = run / "checkpoints"
    state = checkpoints.load(checkpoints.path_of(folder, 8)).state
    old = {**state, "tokens": state["positions"]}
    del old["positions"]
    saved = checkpoints.load(checkpoints.path_of(folder, 8)).tensors
    shutil.rmtree(folder)
    checkpoints.save(folder, 8, checkpoints.Checkpoint(saved, old))
    metrics = [row | {"tokens": row.pop("positions")} for row in rows(run)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    train(run, *often)
    counted = [[(row["tokens"], row["positions"]) for row in rows(each)] for each in (run, plain)]
    assert counted[0] == counted[1]
    assert result(run)["val_loss"] == result(plain)["val_loss"]
    assert [result(run)[key] for key in ("tokens", "positions")] == [
        result(plain)[key] for key in ("tokens", "positions")
    ]


@pytest.fixture
def clocked(monkeypatch) -> list[float]:
    """The time that it is: 1 second passes while the rows of a step are read, 3 while it is taken, and 100 with each
    evaluation."""
    now = [0.0]

    def passes(seconds: float, real):
        def call(*arguments, **options):
            now[0] += seconds
            return real(*arguments, **options)

        return call

    for module in (clock, run_training):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Feed, "local", passes(1, Feed.local))
    monkeypatch.setattr(OptimizerSet, "step", passes(3, OptimizerSet.step))
    monkeypatch.setattr(jobs, "validation_loss", passes(100, jobs.validation_loss))
    monkeypatch.setattr(Device, "peak_flops", lambda self: 1e9)
    return now


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("4,2", 4), (" 2 ", 2), ("", 0), ("many", 0), ("-1", 0)])
def test_threads_are_those_that_the_environment_asks_for(monkeypatch, said, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert devices._threads_asked_for() == threads


def test_mfu_is_of_what_is_known_of_a_device(monkeypatch):
    """Of a GPU that nobody has looked up, or one that computes in fp32, nothing is known."""
    monkeypatch.setattr(devices, "_own_matmul_rate", lambda threads: 1e9 * threads)
    known = [
        *(("cpu", "x86", "fp32", 4e9), ("cuda", "NVIDIA H100 PCIe", "bf16", 756e12)),
        *(("cuda", "NVIDIA H200", "bf16", 989e12), ("cuda", "NVIDIA H200", "fp32", None)),
        *(("cuda", "NVIDIA T4", "bf16", None), ("mps", "M4", "fp32", None)),
    ]
    for type, model, precision, peak in known:
        assert Device(type, model, precision, 4, False, "reference").peak_flops() == peak


def test_speed_is_of_the_time_that_was_spent_on_steps(project, clocked, tmp_path, capsys):
    run = train(tmp_path / "run", "training.eval_interval=10")
    logged = [row for row in rows(run) if "elapsed" in row]
    assert [row["elapsed"] for row in logged] == [20, 40, 60, 80]
    experiment, tokenizer, _ = load_run(run)
    per_position = 3 * flops_per_token(experiment, tokenizer.vocab_size)
    for before, row in zip([{"tokens": 0, "positions": 0}, *logged], logged, strict=False):
        assert row["tokens_per_second"] == (row["tokens"] - before["tokens"]) / 20
        assert row["data_wait"] == 1 / 4
        assert row["mfu"] == pytest.approx((row["positions"] - before["positions"]) * per_position / 20 / 1e9)
        assert 10**7 < row["memory_bytes"] < 10**12  # bytes, and not KiB
    assert (result(run)["training_seconds"], result(run)["seconds"]) == (80, 280)
    assert re.findall(r"done=(\d+)% eta=(\d+)s", capsys.readouterr().err) == [
        ("25", "60"), ("50", "40"), ("75", "20"), ("100", "0")
    ]  # fmt: skip


def test_a_profile_is_written_once_however_long_the_run_goes_on(tmp_path):
    for steps, words in ((3, "no profile"), (30, "profile: ")):
        notes = []
        profile = Profile(tmp_path / str(steps), notes.append)
        for step in range(steps):
            profile.step(step)
        profile.close()
        profile.close()
        assert [each.startswith(words) for each in notes] == [True]
    assert {each.name for each in (tmp_path / "30").iterdir()} == {"trace.json", "operators.txt"}


def test_a_rate_is_of_multiplications_and_additions(monkeypatch):
    now = itertools.count(0.0, 0.05)
    monkeypatch.setattr(devices, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    assert devices.matmul_rate(torch.device("cpu"), size=8) == pytest.approx(2 * 8**3 / 0.05)


def test_a_budget_of_seconds_goes_on_where_it_was(project, clocked, tmp_path, monkeypatch, capsys):
    settings = ("training.seconds=30", "logging.log_interval=1")
    with monkeypatch.context() as patch:
        patch.setattr(progress, "_chosen", stops_after(3))
        sets = [f"--set={setting}" for setting in settings]
        assert main(["train", "experiments/tiny.yaml", "--out", str(tmp_path / "run"), *sets]) == 75
    clocked[0] += 1000
    run = train(tmp_path / "run", *settings)
    assert "plugins differ" not in capsys.readouterr().err
    assert [row["elapsed"] for row in rows(run)] == [4 * step for step in range(1, len(rows(run)) + 1)]
    assert result(run)["training_seconds"] == 4 * len(rows(run)) < 30 + 2 * 4


def test_a_budget_of_seconds(project, tmp_path):
    often = ("logging.log_interval=1", "training.eval_interval=7", "checkpoints.save_interval=1")
    schedule = "training.schedule={type: cosine, warmup: 2}"  # a busy machine makes few steps in half a second
    run = train(tmp_path / "run", "training.seconds=0.5", schedule, *often)
    assert result(run)["val_loss"] == rows(run)[-1]["val_loss"]  # of the last step
    elapsed = [row["elapsed"] for row in rows(run)]
    assert elapsed[-3] < 0.5 <= result(run)["training_seconds"]
    assert elapsed == sorted(elapsed)
    assert rows(run)[-1]["lr"] < 0.5 * RATE  # the schedule came to its end


# ---- what is said -------------------------------------------------------------------------------------------------


def test_the_result_is_the_only_thing_on_stdout(project, tmp_path, capsys):
    train(tmp_path / "run", options=("--json", "--profile"))
    shown = capsys.readouterr()
    assert shown.err == ""
    printed = json.loads(shown.out)
    assert {key: printed[key] for key in result(tmp_path / "run")} == result(tmp_path / "run")
    assert printed["next"].startswith("foundry generate ")


def test_off_a_terminal_progress_is_a_line_every_log_interval(project, tmp_path, capsys):
    train(tmp_path / "run")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step=")]
    assert [re.match(r"step=(\d+) tokens=\d+ positions=\d+ train_loss=[\d.]+ ", line)[1] for line in lines] == [
        "5",
        "10",
        "15",
        "20",
    ]
    assert all(re.search(r" done=\d+% eta=\d+s$", line) for line in lines)
    assert "val_loss=" in lines[-1]


def test_eval_only_is_the_runs_own_loss_on_the_whole_text(plain, source, tmp_path, capsys):
    run = train(tmp_path / "part", "training.eval_tokens=64", "training.ema=0.9")
    capsys.readouterr()
    for folder, whole in ((plain, True), (source, True), (run, False)):
        assert main(["train", "--eval-only", "--out", str(folder), "--json"]) == 0
        scored = json.loads(capsys.readouterr().out)
        assert faults("train --eval-only", scored) == []
        assert scored["step"] == STEPS
        assert (scored["val_loss"] == result(folder)["val_loss"]) == whole
        assert (scored["val_bpb"] == result(folder)["val_bpb"]) == whole
        assert scored["tokens"] > 64


def test_the_validation_loss_by_hand(plain, tmp_path):
    """Its bytes are those of the text: what pads a row, and what ends a document, are none of them. Of a part of the
    text, the rows are spread over all of it."""
    config, tokenizer, model = load_run(plain)
    validation = open_rows(config, Run(plain)).validation

    def by_hand(chosen: list[int]) -> tuple[float, int, int]:
        """Loss, tokens, bytes."""
        batch = validation.take(np.array(chosen))
        counts = torch.from_numpy(batch.loss_weight) > 0
        logits, _ = model(torch.from_numpy(batch.tokens))
        targets = torch.from_numpy(batch.targets)[counts]
        loss = torch.nn.functional.cross_entropy(logits[counts], targets).item()
        return loss, len(targets), len(tokenizer.decode(targets.tolist()).encode())

    allowed = rounding(torch.float32, *sums_of(model, tokens=ROWS * BLOCK))
    loss, tokens, size = by_hand(list(range(len(validation))))
    assert result(plain)["val_loss"] == pytest.approx(loss, rel=allowed)
    assert result(plain)["val_bpb"] == pytest.approx(loss * tokens / math.log(2) / size, rel=allowed)
    run = train(tmp_path / "part", "training.eval_tokens=40")
    n = round(40 * len(validation) / tokens)
    assert 2 < n < len(validation) - 2
    loss, _, _ = by_hand([round(k * (len(validation) - 1) / (n - 1)) for k in range(n)])
    assert result(run)["val_loss"] == pytest.approx(loss, rel=allowed)


def test_a_dry_run_says_what_the_run_then_is(project, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        import_module("foundry.core.training.dry_run"), "step_seconds", lambda *arguments, **options: 0.25
    )
    assert main(["train", "experiments/tiny.yaml", "--dry-run", "--out", str(tmp_path / "run"), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert faults("train --dry-run", planned) == []
    assert not (tmp_path / "run").exists()
    experiment = load_experiment("experiments/tiny.yaml", ["seed=5"])
    assert default_run(experiment).path == project / "runs" / f"tiny-{planned['identity'][:8]}-5"
    done = result(train(tmp_path / "run"))
    assert (planned["run"], planned["steps"]) == (done["run"], done["step"])
    told = ("identity", "parameters", "tokens", "positions", "flops")
    assert {key: planned[key] for key in told} == {key: done[key] for key in told}
    per_epoch = open_rows(load_experiment("experiments/tiny.yaml")).rows_per_epoch
    assert planned["epochs"] == pytest.approx(STEPS * ROWS / per_epoch)
    assert planned["seconds"] == STEPS * 0.25


# ---- init_from ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(project) -> Path:
    """Whose best checkpoint is not its last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "validation_loss", best_at_first())
        run = train(project / "source", "training.ema=0.9", "training.eval_interval=5")
    assert result(run)["best_step"] == 5
    return run


def test_a_run_begins_with_the_judged_weights_of_another(source, tmp_path, capsys):
    # Another text, with fewer characters: ids mean the same only by the source's tokenizer.
    (tmp_path / "text.txt").write_text("the three there then " * 30)
    settings = (f"init_from={source}", f"data.dataset.path={tmp_path / 'text.txt'}", "training.learning_rate=1e-12")
    run = train(tmp_path / "run", *settings, "training.max_iters=1")
    averaged = saved(source, "ema")
    for name, tensor in saved(run, step=1).items():
        assert_rounded(tensor, averaged[name], 1)  # a step of 1e-12 is less than the last bit
    began = json.loads((run / "config.json").read_text())["init_from"]
    file = source / "checkpoints" / f"step-{STEPS:08d}" / "ema.safetensors"
    assert began == {"run": str(source), "step": STEPS, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert load_run(run).tokenizer.hash == load_run(source).tokenizer.hash
    for sha256, changed in ((began["sha256"], False), ("0" * 64, True)):
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | {"init_from": began | {"sha256": sha256}}))
        capsys.readouterr()
        train(run, *settings, "training.max_iters=1")
        assert (f"began with step {STEPS} of {source}, which is at" in capsys.readouterr().err) == changed


def test_resuming_does_not_begin_again(source, tmp_path, monkeypatch, capsys):
    origin = shutil.copytree(source, tmp_path / "origin")
    settings = (f"init_from={origin}", "logging.log_interval=1", "model_args.dropout=0.1")
    reference = train(tmp_path / "reference", *settings)

    with monkeypatch.context() as patch:
        patch.setattr(progress, "_chosen", stops_after(9))
        sets = [f"--set={setting}" for setting in settings]
        assert main(["train", "experiments/tiny.yaml", "--out", str(tmp_path / "run"), *sets]) == 75
    shutil.rmtree(origin)
    assert_same_bits(train(tmp_path / "run", *settings), reference)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["init_from=zoo:llama3-9b"], "did you mean llama3-8b"),
        (["init_from=zoo:gpt2-xl"], "foundry zoo pull gpt2-xl"),
        (["init_from=nowhere"], "nowhere is not a run folder"),
        (["init_from={source}", "model_args.n_embd=32"], "parameter blocks.0.attention"),
        (["init_from={source}", "model_args.n_layer=1"], "parameter blocks.1."),
        (["init_from={source}", "data.tokenizer=byte"], "was trained with data.tokenizer"),
    ],
)
def test_weights_that_do_not_fit_are_refused(source, tmp_path, capsys, settings, words):
    sets = [f"--set={setting.format(source=source)}" for setting in settings]
    assert main(["train", "experiments/tiny.yaml", "--out", str(tmp_path / "run"), *sets]) == 3
    told = capsys.readouterr().err
    assert words in told
    assert "init_from" in told
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_needs_the_weights_that_it_began_with_no_more(plain, monkeypatch):
    monkeypatch.setattr("foundry.core.training.open_rows.source_of", lambda experiment: 1 / 0)
    assert (
        open_rows(load_experiment("experiments/tiny.yaml"), Run(plain)).tokenizer.hash == load_run(plain).tokenizer.hash
    )


def test_a_step_that_went_wrong_is_looked_for_at_its_own_rows():
    pending = [{"step": 3, "train_loss": 1.0}, {"step": 4, "train_loss": math.nan}, {"step": 5, "train_loss": math.nan}]
    training = SimpleNamespace(batch_size=8)
    trainer = SimpleNamespace(metrics=SimpleNamespace(pending=pending), experiment=SimpleNamespace(training=training))
    assert diagnosis._failed_at(trainer) == 3 * 8
