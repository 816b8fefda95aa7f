"""Two ranks over gloo, started as a user starts them: the same rows, the same losses as one rank, one exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.compiled_kernels import put_into
from tests.doses import not_in_small_doses
from tests.processes import on_ranks, run_alone, run_ranks, wait_for
from tests.project import working_in, write_project
from tests.runs import rows
from torch import distributed as dist
from torch import nn

from foundry.core import load_run
from foundry.core.config import load_experiment
from foundry.core.contracts import InvalidExperiment
from foundry.core.run import read_json_lines
from foundry.core.testing import sums_of
from foundry.core.testing.rounding import rounding
from foundry.core.training.distributed import check_ranks, join

STEPS = 12
EXPERIMENT = f"""
model_args: {{n_layer: 2, n_head: 2, n_embd: 32, block_size: 32, attention: gqa_1kv}}
data: {{dataset: {{type: text, path: corpus.txt}}, tokenizer: byte}}
training:
  {{max_iters: {STEPS}, batch_size: 8, learning_rate: 3e-3, eval_interval: 5, threads: 1,
   optimizer: {{type: adamw, eps: 1e-2}}}}  # which does not blow up the noise of gradients near 0
logging: {{log_interval: 1, sample_tokens: 0}}
checkpoints: {{save_interval: 6}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    corpus = "".join(f"line {i} of {i * i} squares\n" for i in range(900))
    files = {"experiment.yaml": EXPERIMENT, "corpus.txt": corpus}
    folder = write_project(tmp_path_factory.mktemp("project"), files)
    put_into(folder / "cache")
    return folder


def environment(project: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, "FOUNDRY_CACHE": str(project / "cache"), "OMP_NUM_THREADS": "1"}


def foundry(project: Path, *arguments: str, launcher: tuple[str, ...] = (), **options):
    command = [sys.executable, *launcher, "-m", "foundry.cli", "train", "experiment.yaml", *arguments]
    return subprocess.run(
        command, cwd=project, env=environment(project), capture_output=True, text=True, timeout=120, **options
    )


def assert_same_training(run: Path, reference: Path) -> None:
    """But for sums in another order, of which each step adds to those before."""
    allowed = rounding(torch.float32, *sums_of(load_run(reference).model, tokens=8 * 32) * STEPS)
    ours, theirs = rows(run), rows(reference)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == list(range(1, STEPS + 1))
    for a, b in zip(ours, theirs, strict=True):
        assert (a["lr"], a["tokens"]) == (b["lr"], b["tokens"])
        for key in ("train_loss", "val_loss", "grad_norm"):
            assert (key in a) == (key in b)
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=allowed), (a["step"], key)


@pytest.fixture(scope="module")
def one_rank(project) -> Path:
    run_alone(project, ["train", "experiment.yaml", "--out", "one"])
    return project / "one"


def test_nproc_2_equals_one_rank(project, one_rank):
    done = foundry(project, "--out", "two", "--nproc", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == STEPS  # one result, from one rank
    assert_same_training(project / "two", one_rank)


class TwoTables(nn.Module):
    """With row-sparse gradients, and dense ones beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Embedding(64, 8, sparse=True), nn.Embedding(64, 8, sparse=True)
        self.out = nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.a(ids) * self.b(ids)).square().sum()


def ids_of(step: int, rank: int) -> torch.Tensor:
    """Of each rank other numbers of rows, some of them twice, and none at all now and then."""
    generator = torch.Generator().manual_seed(2 * step + rank)
    return torch.randint(
        0, 64, (int(torch.randint(1, 30, (), generator=generator)) * (step % 4 > rank),), generator=generator
    )


def compare_gradients() -> int:
    with join(SimpleNamespace(distributed="ddp", batch_size=2, device="cpu")) as world:
        torch.manual_seed(0)
        model, alone = TwoTables(), TwoTables()
        alone.load_state_dict(model.state_dict())
        wrapped = world.wrap(model)
        for step in range(40):
            model.zero_grad(), alone.zero_grad()
            with wrapped.no_sync():
                wrapped(ids_of(step, world.rank)).backward()
            wrapped(ids_of(step + 100, world.rank)).backward()
            for at in (step, step + 100):
                for rank in range(2):
                    (alone(ids_of(at, rank)) / 2).backward()
            for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
                assert ours.grad.is_sparse == theirs.grad.is_sparse
                torch.testing.assert_close(ours.grad.to_dense(), theirs.grad.to_dense())
                assert not ours.grad.is_sparse or ours.grad.coalesce().values().size(0) < 64
    return 0


def test_row_sparse_gradients_are_averaged_over_ranks(tmp_path):
    on_ranks(2, tmp_path, compare_gradients)


@pytest.mark.slow
@not_in_small_doses
def test_torchrun_equals_one_rank(project, one_rank):
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
    done = foundry(project, "--out", "torchrun", launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert_same_training(project / "torchrun", one_rank)


def test_gradient_accumulation_on_two_ranks_equals_one_rank(project, one_rank):
    run_ranks(2, project, ["train", "experiment.yaml", "--out", "accumulated", "--set", "training.micro_batch=2"])
    assert_same_training(project / "accumulated", one_rank)


def test_a_run_of_two_ranks_goes_on_as_one(project, one_rank):
    whole = ("--set", "training.micro_batch=8")  # of which each of two ranks has half
    process = start(project, "changed", *whole)
    wait_for_step(project / "changed", 6)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert not (project / "changed" / "result.json").exists()
    run_alone(project, ["train", "experiment.yaml", "--out", "changed", *whole])
    assert_same_training(project / "changed", one_rank)
    assert [row["micro_batch"] for row in rows(project / "changed") if "micro_batch" in row] == [4]


def test_when_a_rank_dies_the_others_stop(project):
    process = start(project, "bereaved", "--set", "training.max_iters=100000")
    wait_for_step(project / "bereaved", 3)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGKILL)
    assert process.wait(60) == 7
    assert all(not Path(f"/proc/{pid}").exists() for pid in ranks)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_ranks_start_is_the_exit_status(project, number, status):
    process = start(project, "not-begun")
    while subprocess.run(["pgrep", "-c", "-P", str(process.pid)], capture_output=True).stdout != b"2\n":
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)  # they import torch, for seconds
    assert process.wait(60) == status
    assert not (project / "not-begun").exists()


def test_ranks_that_do_not_divide_the_batch_are_refused(project):
    done = foundry(project, "--out", "odd", "--nproc", "3")
    assert done.returncode == 3
    assert "batch_size 8 cannot be divided among 3 ranks" in done.stderr
    assert "Traceback" not in done.stderr
    alone = load_experiment(project / "experiment.yaml", ["training.distributed=none"]).training
    check_ranks(alone, 1)
    with pytest.raises(InvalidExperiment, match="distributed is none, but 2 ranks"):
        check_ranks(alone, 2)


def test_who_joins_waits_for_nobody_longer_than_it_is_told(project, monkeypatch):
    waits = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: waits.append(timeout))
    monkeypatch.setattr(dist, "new_group", lambda backend, timeout: waits.append(timeout))
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    training = load_experiment(project / "experiment.yaml").training
    with join(training), join(training, timeout_seconds=7):
        assert waits == [timedelta(minutes=5)] * 2 + [timedelta(seconds=7)] * 2


def start(project: Path, out: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "foundry.cli", "train", "experiment.yaml", "--out", out, "--nproc", "2"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=project,
        env=environment(project),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_step(run: Path, step: int) -> None:
    metrics = run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and any(row["step"] >= step for row in read_json_lines(metrics)))


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_any_number_of_ranks_reads_the_same_rows(project, size):
    """The rows of a global batch, put together from all ranks, are those that one rank reads."""
    from foundry.core.training.device import resolve
    from foundry.core.training.distributed import World
    from foundry.core.training.feed import Feed

    with working_in(project):
        experiment = load_experiment("experiment.yaml")
        opened = experiment.registry.sections["data"].load()(experiment.data, block_size=32, seed=1)
    device = resolve(experiment.training)

    def read(ranks: int) -> set[bytes]:
        feeds = [Feed(opened, World(rank=r, size=ranks), device, 8, 8) for r in range(ranks)]
        return {row.tobytes() for feed in feeds for row in feed.local(cursor=24).tokens}

    assert read(size) == read(1)
    assert len(read(1)) == 8
