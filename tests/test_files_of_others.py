"""What stands under a file's name may be anything, and a model may be larger than the machine: both are refused before
they cost more than a look."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.project import working_in, write_project

from foundry.cli.__main__ import main
from foundry.core.analyze import training_bytes
from foundry.core.config import load_experiment
from foundry.core.contracts import EnvironmentFailure, InvalidData
from foundry.core.run import LINE_BYTES, read_json_lines
from foundry.core.system import machine, open_regular, read_regular
from foundry.core.system.files import UnfitFile
from foundry.core.training import checkpoint as checkpoints
from foundry.core.training import vocab_size_of
from foundry.data.shards import read_manifest
from foundry.data.tokenize import pretrained_files
from foundry.data.tokenize.files import load_tokenizer
from foundry.lab.trials.executors.process import WorkerProcess
from foundry.lab.trials.failure import is_the_machines, reason_of
from foundry.zoo.plugin import PretrainedParams
from foundry.zoo.shards import WeightsFolder

EXPERIMENT = """
model_args: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 16}
data: {dataset: {type: text, path: corpus.txt}, tokenizer: byte}
training: {max_iters: 1, batch_size: 4, threads: 1, eval_interval: 1, ema: 0.9}
"""
TERABYTE = 2**40


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/null")  # it stands for all of them: /dev/zero, should it be read, would take the memory


def endless(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(TERABYTE)  # of which the disk has nothing


@pytest.fixture(params=[fifo, device, endless])
def unfit(request):
    """Puts something else under a file's name; who waits for it is ended."""

    def end(*_: object) -> None:
        raise AssertionError("it waits")

    def put(path: Path) -> Path:
        path.unlink(missing_ok=True)
        request.param(path)
        return path

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield put
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    corpus = "the quick brown fox jumps over the lazy dog. " * 60
    files = {"experiments/baseline.yaml": EXPERIMENT, "corpus.txt": corpus}
    with working_in(write_project(tmp_path_factory.mktemp("project"), files)) as folder:
        yield folder


@pytest.fixture(scope="module")
def trained(project) -> Path:
    assert main(["train", "--out", str(project / "trained")]) == 0
    return project / "trained"


def test_a_file_is_read_up_to_its_bound(tmp_path, unfit):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_regular(file, 5) == b"12345"
    with pytest.raises(UnfitFile, match="holds 5 bytes, more than the 4 that it may"):
        read_regular(file, 4)
    with pytest.raises(UnfitFile):
        read_regular(unfit(tmp_path / "other"), 1000)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    if Path("/proc/self/status").exists():  # it says that it has no bytes
        assert b"VmRSS" in read_regular(Path("/proc/self/status"), 100_000)
        with pytest.raises(UnfitFile, match="more than the 10 "):
            read_regular(Path("/proc/self/status"), 10)


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("config.json", "generate"),
        ("config.json", "train --out"),
        ("result.json", "train --out"),
        ("tokenizer/tokenizer.json", "generate"),
        ("checkpoints/step-00000001/manifest.json", "generate"),
        ("checkpoints/step-00000001/state.json", "generate"),
        ("checkpoints/step-00000001/model.safetensors", "train --eval-only --out"),
    ],
)
def test_what_is_no_file_of_a_run_is_refused_by_name(trained, tmp_path, capsys, unfit, file, command):
    run = shutil.copytree(trained, tmp_path / "run")
    unfit(run / file)
    assert main([*command.split(), str(run)]) == 3
    said = capsys.readouterr().err
    assert file in said
    assert "bytes" in said or "is not a regular file" in said


READERS = {
    "config.json": lambda folder: WeightsFolder(folder),
    "model.safetensors.index.json": lambda folder: WeightsFolder(folder).files,
    "tokenizer.json": lambda folder: load_tokenizer(folder),
    "tokenizer_config.json": lambda folder: pretrained_files.read(folder / "tokenizer.json"),
    "manifest.json": lambda folder: read_manifest(folder),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_of_a_model_or_a_corpus_is_refused(tmp_path, unfit, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    unfit(tmp_path / name)
    with pytest.raises(InvalidData, match=name):
        READERS[name](tmp_path)
    assert not PretrainedParams.takes(str(tmp_path))


def test_a_line_without_end_costs_itself_alone(tmp_path):
    lines = tmp_path / "metrics.jsonl"
    lines.write_bytes(b'{"step": 1}\n{"step": "' + bytes(3 * LINE_BYTES) + b'"}\n{"step": 2}\n{"step": 3}')
    assert list(read_json_lines(lines)) == [{"step": 1}, {"step": 2}]


def test_of_a_workers_log_the_end_is_read(tmp_path):
    endless(tmp_path / "log")
    with open(tmp_path / "log", "ab") as log:
        log.write(b"\nFatal Python error: Aborted\n")
    nothing: Any = None  # no process: its log alone is asked for
    worker = WorkerProcess("worker 1", nothing, nothing, nothing, tmp_path / "log")
    assert worker.last_words() == "Fatal Python error: Aborted"
    assert worker.last_line() is None


def test_a_checkpoint_beyond_the_memory_is_not_read_and_not_set_aside(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    folder = run / "checkpoints" / "step-00000001"
    endless(folder / "model.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.safetensors"]["bytes"] = TERABYTE
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EnvironmentFailure, match=r"needs 1,099\.5 GB of memory, and"):
        checkpoints.newest(run / "checkpoints", print)
    assert folder.is_dir()


def test_a_training_that_cannot_fit_is_refused_before_it_takes_memory(project, monkeypatch, capsys):
    experiment = load_experiment(None)
    needed = training_bytes(experiment, vocab_size_of(experiment))
    monkeypatch.setattr(machine, "memory_bytes", lambda: needed - 1)
    for command in ("train", "train --dry-run", "lr-find"):
        assert main([*command.split(), *(["--out", "large"] if command == "train" else [])]) == 6
        said = capsys.readouterr().err
        assert "MB of memory, and" in said
        assert "`foundry analyze`" in said
    assert not (project / "large").exists()
    monkeypatch.setattr(machine, "memory_bytes", lambda: needed)  # what may fit is tried
    assert main(["train", "--out", "fits"]) == 0


def test_what_a_training_needs_is_counted_without_what_may_be_spared(project):
    def needed(*sets: str) -> int:
        return training_bytes(load_experiment(None, sets), 257)

    without = needed("training.ema=null")
    weights = needed() - without  # the average's
    assert without == 4 * weights  # weights, gradients, two moments
    peer = "model_args.ffn={type: peer, n_experts: 256, heads: 2, top_k: 4, key_dim: 8, sparse_gradients: %s}"
    assert needed(peer % "true") < needed(peer % "false")
    assert needed("training.batch_size=64") == needed()


def test_a_model_too_large_is_its_arms_own_failure():
    with pytest.raises(EnvironmentFailure) as refused:
        machine.require_memory(TERABYTE**2, "the arm")
    assert not is_the_machines(refused.value)
    assert reason_of(refused.value).startswith("EnvironmentFailure: the arm needs")
