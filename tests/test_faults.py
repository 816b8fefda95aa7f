"""Mistakes and bad luck: each has one clear error and its exit code, and loses nothing.

The real command runs, in this process where that is enough. What a fault interrupts goes on afterwards, and ends byte
for byte as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests.processes import server
from tests.project import lines_of_words, working_in, write_project
from tests.runs import assert_same_run, rows, rows_without_clock

from foundry.cli import progress
from foundry.cli.__main__ import main
from foundry.core.contracts import Diverged, InvalidData
from foundry.core.generate import stream_text
from foundry.core.run import Run
from foundry.core.tensors import write_tensors
from foundry.core.training import checkpoint as checkpoints
from foundry.core.training import device, jobs
from foundry.core.training.objective import NextToken
from foundry.core.training.reporter import PlainReporter
from foundry.core.training.validation import ValidationLoss

STEPS = 24
EXPERIMENT = f"""
model_args: {{n_layer: 1, n_head: 2, n_embd: 16, block_size: 16, dropout: 0.1}}
data: {{dataset: {{type: text, path: corpus.txt}}, tokenizer: char}}
training: {{max_iters: {STEPS}, batch_size: 4, learning_rate: 3e-3, eval_interval: 8, threads: 1, ema: 0.9}}
logging: {{log_interval: 2, sample_tokens: 5, sample_prompt: th}}
checkpoints: {{save_interval: 6}}
"""
BREAKS = '''
"""A loss that is not a number from its 11th call in training on."""

import math

from foundry.core.contracts import Params, Variant, hookimpl


@hookimpl
def foundry_variants():
    return [Variant(slot="loss", name="breaks", target=f"{__name__}:build", params=Params)]


def build(params, dims):
    from torch import nn
    from torch.nn.functional import cross_entropy

    class Breaks(nn.Module):
        calls = 0

        def forward(self, hidden, head, batch):
            self.calls += 1
            losses = cross_entropy(head(hidden).flatten(0, 1), batch.targets.flatten(), reduction="none")
            total = (losses * batch.loss_weight.flatten()).sum()
            return total * (math.nan if self.calls > 10 else 1.0), batch.loss_weight.sum(), {}

    return Breaks()
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    files = {"experiments/tiny.yaml": EXPERIMENT, "variants/breaks.py": BREAKS, "corpus.txt": lines_of_words(60)}
    with working_in(write_project(tmp_path_factory.mktemp("project"), files)) as folder:
        yield folder


def train(*arguments: str | Path) -> int:
    """`foundry train experiments/tiny.yaml ARGUMENTS` in this process; its exit code."""
    return main(["train", "experiments/tiny.yaml", *map(str, arguments)])


class Meddler(PlainReporter):
    """Does something when the row of a step is shown."""

    def __init__(self, step, meddle):
        self.at, self.meddle = step, meddle

    def step(self, row, *progress):
        super().step(row, *progress)
        if row["step"] == self.at:
            self.meddle()


def train_meddled_with(step, meddle, *arguments) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "_chosen", lambda: Meddler(step, meddle))
        return train(*arguments)


@pytest.fixture(scope="module")
def finished(project) -> Path:
    """A run that nothing happened to."""
    assert train("--out", "finished") == 0
    return project / "finished"


@pytest.fixture(scope="module")
def stopped(project) -> Path:
    """A run that got a SIGTERM after step 14, and its checkpoints of steps 8 (the best then), 12 and 15."""
    out = project / "stopped"
    assert train_meddled_with(14, lambda: signal.raise_signal(signal.SIGTERM), "--out", out) == 75
    return out


@pytest.fixture
def unfinished(stopped, tmp_path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- the run folder -------------------------------------------------------------------------------------------------


def test_a_signal_stops_the_run_with_75_and_it_ends_as_if_it_never_had(finished, stopped, unfinished, capsys):
    assert rows(stopped)[-1]["step"] == 15
    assert sorted(path.name for path in (stopped / "checkpoints").iterdir())[-1] == "step-00000015"
    assert train("--out", unfinished, "--resume", "must") == 0
    assert "step=15" in capsys.readouterr().err  # where it went on
    assert_same_run(unfinished, finished)


def test_a_signal_while_a_sample_is_written(project, finished, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        yield next(stream_text(*arguments, **options))
        signal.raise_signal(signal.SIGTERM)
        yield "more"

    settings = ("--set=logging.sample_interval=9", "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "stream_text", interrupted)
        assert train(*settings) == 75
    assert (tmp_path / "run" / "checkpoints" / "step-00000009").exists()
    assert not (tmp_path / "run" / "samples.jsonl").exists()
    assert train(*settings) == 0
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [9, 18, 24]
    assert samples[-1] == json.loads((finished / "samples.jsonl").read_text())


def test_what_dies_behind_a_sample_keeps_each_sample_once(project, finished, tmp_path, monkeypatch):
    """The step was saved before its sample was written, so that whoever goes on writes it again."""

    class Dies(PlainReporter):
        def sample(self, step, text):
            if step == 12:
                raise RuntimeError

    settings = ("--set=logging.sample_interval=6", "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(progress, "_chosen", Dies)
        assert train(*settings) == 1
    assert checkpoints.steps(tmp_path / "run" / "checkpoints")[-1] == 12
    assert train(*settings) == 0
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [6, 12, 18, 24]
    assert samples[-1] == json.loads((finished / "samples.jsonl").read_text())


def test_a_checkpoint_that_cannot_be_read_now_is_not_set_aside(finished, unfinished, capsys, monkeypatch):
    """Too many open files say nothing of the file."""
    real = checkpoints.read_regular

    def read_regular(path: Path, at_most: int) -> bytes:
        if path.match("checkpoints/step-00000015/model.safetensors"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return real(path, at_most)

    before = files(unfinished)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "read_regular", read_regular)
        assert train("--out", unfinished) == 6
    assert "step-00000015/model.safetensors: Too many open files\n  this process may open no more" in (
        capsys.readouterr().err
    )
    assert {name: text for name, text in files(unfinished).items() if name in before} == before
    assert train("--out", unfinished) == 0
    assert_same_run(unfinished, finished)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_nobody_listening_is_no_reason_to_stop(project, finished, tmp_path, monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        assert train("--out", tmp_path / "run") == 0
        patch.undo()
    assert_same_run(tmp_path / "run", finished)


def test_a_finished_run_prints_its_result_and_trains_nothing(finished, capsys):
    before = files(finished)
    assert train("--out", finished, "--json") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    result = json.loads(shown.out)
    assert (result["step"], result["run"]) == (STEPS, str(finished))
    assert files(finished) == before


def test_resume_must_and_never(finished, unfinished, tmp_path, capsys):
    assert train("--resume", "must", "--out", tmp_path / "none") == 3
    assert "no checkpoint to resume from" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    before = files(unfinished)
    assert train("--resume", "never", "--out", unfinished) == 0
    assert_same_run(unfinished, finished)
    aside = files(tmp_path / "run~1")
    assert {path.relative_to(tmp_path / "run~1"): content for path, content in aside.items()} == {
        path.relative_to(unfinished): content for path, content in before.items() if path.name != ".lock"
    }


def test_another_experiment_is_not_mixed_into_a_run(finished, capsys):
    before = files(finished)
    for change in ("seed=7", "training.learning_rate=0.5", "model_args.norm=layernorm"):
        for also in ((), ("--eval-only",)):
            assert train("--out", finished, "--set", change, *also) == 3
            told = capsys.readouterr().err
            assert "holds another experiment" in told
            assert change.split("=")[0].split(".")[-1] in told
    assert files(finished) == before


def test_a_folder_that_cannot_become_a_run_folder(project, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    cases = (("file", 6), ("file/below", 6), ("x" * 300, 6), ("mine", 3), ("/proc/nothing", 6))
    for name, code in cases:
        for resume in ("auto", "never"):
            assert train("--out", tmp_path / name, "--resume", resume) == code, (name, resume)
            shown = capsys.readouterr()
            assert shown.out == ""
            assert shown.err.count("error:") == 1
            assert name in shown.err
            assert "internal" not in shown.err
    assert {path.name: path.read_text() for path in files(tmp_path)} == {"file": "mine", "thesis.txt": "mine"}


def test_what_a_system_hides_in_a_folder_makes_it_nobodys(tmp_path):
    (tmp_path / ".DS_Store").touch()
    Run(tmp_path).refuse_strangers()
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InvalidData, match=r"it holds thesis\.txt"):
        Run(tmp_path).refuse_strangers()
    (tmp_path / "config.json").touch()
    Run(tmp_path).refuse_strangers()


def test_two_processes_never_train_in_one_folder(project, unfinished, capsys):
    codes = []
    assert train_meddled_with(16, lambda: codes.append(train("--out", unfinished)), "--out", unfinished) == 0
    assert codes == [6]
    assert "another process" in capsys.readouterr().err


def test_a_start_that_fails_leaves_no_folder(project, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    assert train("--set", f"data.dataset.path={tmp_path}/empty.txt", "--out", tmp_path / "run") == 3
    assert not (tmp_path / "run").exists()


DAMAGE = {
    "config.json": [b"", b"[]", b"{}", b'{"identity": "x", "seed": 1, "experiment": {}, "device": {"type": 5}}'],
    "tokenizer/tokenizer.json": [b"", b"[]", b'{"type": ["char"]}', b'{"type": "chor"}', b'{"type": "char"}'],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_of_a_run_are_refused_by_name(unfinished, name, capsys):
    for content in DAMAGE[name]:
        (unfinished / name).write_bytes(content)
        for command in (["train", "experiments/tiny.yaml", "--out"], ["generate", "--prompt", "th"]):
            assert main([*command, str(unfinished)]) == 3, content
            told = capsys.readouterr().err
            assert str(unfinished / name) in told
            assert "internal" not in told
    assert main(["runs", "--folder", str(unfinished.parent)]) == 0


def test_an_altered_tokenizer_is_refused(unfinished, capsys):
    file = unfinished / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text().replace("ae", "ax"))
    assert train("--out", unfinished) == 3
    assert str(file) in capsys.readouterr().err


def test_a_damaged_result_is_made_again(finished, unfinished, capsys):
    assert train("--out", unfinished) == 0
    whole = json.loads((unfinished / "result.json").read_text())
    for content in (b"", b'{"step": 3}', b"[]"):
        (unfinished / "result.json").write_bytes(content)
        assert train("--out", unfinished) == 3
        assert f"{unfinished / 'result.json'}" in capsys.readouterr().err
    (unfinished / "result.json").unlink()
    assert train("--out", unfinished) == 0
    again = json.loads((unfinished / "result.json").read_text())
    assert {key for key in whole if whole[key] != again[key]} <= {"seconds", "training_seconds"}
    assert_same_run(unfinished, finished)


def test_torn_and_damaged_metrics_lose_only_what_was_damaged(finished, unfinished):
    file = unfinished / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[2], lines[3], lines[-1] = b'{"step": 3, "trai\n', b'{"no": "step"}\n', lines[-1][:-10]
    file.write_bytes(b"".join(lines))
    shutil.rmtree(unfinished / "checkpoints" / "step-00000015")
    assert train("--out", unfinished) == 0
    expected = [row for row in rows_without_clock(finished) if row["step"] not in (3, 4)]
    assert rows_without_clock(unfinished) == expected
    csv = (unfinished / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in csv[1:]] == [str(row["step"]) for row in expected]


def test_a_changed_corpus_is_refused_by_name(project, unfinished, capsys):
    corpus = project / "corpus.txt"
    text = corpus.read_text()
    try:
        corpus.write_text(text + " the hen")
        for also in ((), ("--eval-only",)):
            assert train("--out", unfinished, *also) == 3
            assert "the text or its split changed" in capsys.readouterr().err
    finally:
        corpus.write_text(text)


# ---- the disk -------------------------------------------------------------------------------------------------------


def limit_files(n_bytes: int) -> None:
    """From now on no file of this process can grow beyond `n_bytes`, as if the disk were full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def train_on_a_disk_that_fills(sender, out: str, step: int, limit: str) -> None:
    """The child: at `step` the disk is too full for a checkpoint, or for the next row of metrics."""
    said = io.StringIO()  # not a file: it is the run's files that are to fail

    def fill() -> None:
        limit_files(8_000 if limit == "checkpoint" else os.stat(f"{out}/metrics.jsonl").st_size + 50)

    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = train_meddled_with(step, fill, "--out", out)
    sender.send((code, said.getvalue()))


@pytest.mark.parametrize("what", ["checkpoint", "metrics"])
def test_a_full_disk_loses_nothing(project, finished, tmp_path, what, capsys):
    out = tmp_path / "run"
    receiver, sender = server.Pipe(duplex=False)
    child = server.Process(target=train_on_a_disk_that_fills, args=(sender, str(out), 14, what))
    child.start()
    sender.close()  # the child's is the only one left: if it dies, receiving ends
    code, said = receiver.recv()
    child.join()
    assert code == 6
    assert said.count("error:") == 1
    assert "File too large" in said
    assert str(out / ("checkpoints/step-00000016" if what == "checkpoint" else "metrics.jsonl")) in said
    assert main(["generate", str(out), "--prompt", "th", "--max-tokens", "3"]) == 0  # from the one before
    assert (out / "checkpoints" / "step-00000012").exists()
    assert train("--out", out) == 0
    assert_same_run(out, finished)


def test_a_checkpoint_is_published_when_the_disk_has_it_and_its_metrics(project, tmp_path, monkeypatch):
    """A power cut may take whatever was not flushed: the newest checkpoint is whole, and so are the rows up to it."""
    flush, rename, flushed, published = os.fsync, os.rename, {}, []

    def fsync(descriptor: int) -> None:
        flush(descriptor)
        flushed[os.readlink(f"/proc/self/fd/{descriptor}")] = os.fstat(descriptor).st_size

    def publish(staging: Path, final: Path) -> None:
        if final.parent.name != "checkpoints":  # a corpus that is prepared
            return rename(staging, final)
        run = final.parent.parent
        for file in (*staging.iterdir(), run / "metrics.jsonl", run / "metrics.csv"):
            assert flushed.get(str(file)) == file.stat().st_size, file
        assert len(rows(run)) == int(final.name[5:])
        assert str(staging) in flushed
        rename(staging, final)
        flushed.pop(str(final.parent), None)
        published.append(final)
        return None

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(checkpoints.os, "rename", publish)
    assert train("--set", "training.max_iters=7", "--out", tmp_path / "run") == 0
    assert [path.name for path in published] == ["step-00000006", "step-00000007"]
    assert str(tmp_path / "run" / "checkpoints") in flushed  # the name that it was given


def test_tensors_that_cannot_be_written_name_their_file(tmp_path):
    file = tmp_path / "none" / "model.safetensors"
    with pytest.raises(FileNotFoundError) as failed:
        write_tensors(file, {"weight": torch.ones(3)})
    assert failed.value.filename == str(file)


def test_a_file_that_the_disk_cannot_read_any_more_is_named(stopped, monkeypatch):
    def broken(path, at_most, real=checkpoints.read_regular):
        if path.suffix == ".safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO))  # of a read, which has no name in it
        return real(path, at_most)

    monkeypatch.setattr(checkpoints, "read_regular", broken)
    with pytest.raises(InvalidData, match="step-00000012: Input/output error"):
        checkpoints.load(stopped / "checkpoints" / "step-00000012")


# ---- the numbers ----------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_keeps_what_was_finite(project, tmp_path, capsys):
    out = tmp_path / "run"
    seldom = ("--set", "logging.log_interval=7")  # rows wait for step 12, where it is saved
    assert train("--set", "training.loss=breaks", *seldom, "--out", out) == 1
    assert "not finite at step 11: loss nan" in capsys.readouterr().err
    assert [row["step"] for row in rows(out)] == list(range(1, 11))
    steps = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert steps == ["step-00000006", "step-00000008"]
    for file in (out / "checkpoints").glob("*/*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())
    assert not (out / "result.json").exists()
    assert main(["generate", str(out), "--prompt", "th", "--max-tokens", "3"]) == 0


def test_a_validation_loss_that_is_not_finite_keeps_the_rows_before_it(project, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jobs, "validation_loss", lambda *_, **__: ValidationLoss(math.nan, math.nan, 1))
    assert train("--set", "logging.log_interval=7", "--out", tmp_path / "run") == 1
    assert "the validation loss is nan" in capsys.readouterr().err
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 9))
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [6]


@pytest.mark.parametrize("group", ["model", "optimizer", "ema"])
def test_no_checkpoint_holds_what_is_not_finite(tmp_path, group):
    tensors = {name: {"weight": torch.ones(3)} for name in ("model", "optimizer", "ema")}
    tensors[group]["weight"][1] = math.inf
    with pytest.raises(Diverged, match=f"{group} weight is not finite at step 7"):
        checkpoints.save(tmp_path, 7, checkpoints.Checkpoint(tensors, {"step": 7}))
    assert not list(tmp_path.iterdir())


def test_a_learning_rate_beyond_all_reason(project, tmp_path, capsys):
    reckless = ("learning_rate=1e30", "grad_clip=0", "schedule={type: constant, warmup: 0}")
    arguments = [f"--set=training.{setting}" for setting in reckless]
    assert train(*arguments, "--out", tmp_path / "run") == 1
    assert "not finite at step 2" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


# ---- the memory -----------------------------------------------------------------------------------------------------


@pytest.fixture
def room_for_two_rows(monkeypatch):
    """More than two rows run out of memory in the backward pass, when some gradients are there already."""
    forward = NextToken.forward

    def limited(self, model, batch):
        loss, *others = forward(self, model, batch)
        if len(batch.tokens) > 2:
            loss.backward()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss, *others

    monkeypatch.setattr(NextToken, "forward", limited)


def test_out_of_memory_halves_the_micro_batch(project, room_for_two_rows, tmp_path, capsys):
    stop = train_meddled_with(14, lambda: signal.raise_signal(signal.SIGINT), "--out", tmp_path / "halved")
    assert stop == 75
    assert capsys.readouterr().err.count("micro_batch is now 2") == 1
    assert train("--out", tmp_path / "halved") == 0
    assert "micro_batch is now" not in capsys.readouterr().err  # the resumed run knows
    recorded = rows(tmp_path / "halved")
    assert {row["step"]: row["micro_batch"] for row in recorded if "micro_batch" in row} == {1: 2}
    assert train("--set", "training.micro_batch=2", "--out", tmp_path / "asked for") == 0
    assert_same_run(tmp_path / "halved", tmp_path / "asked for")


def test_the_record_says_from_which_step_on_the_micro_batch_was_halved(project, tmp_path, monkeypatch):
    forward, calls = NextToken.forward, []

    def limited(self, model, batch):
        calls.append(len(batch.tokens))
        if len(calls) > 6 and len(batch.tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, model, batch)

    monkeypatch.setattr(NextToken, "forward", limited)
    assert train("--out", tmp_path / "run") == 0
    assert calls[:10] == [4, 4, 4, 4, 4, 4, 4, 2, 2, 2]
    recorded = rows(tmp_path / "run")
    assert {row["step"]: row["micro_batch"] for row in recorded if "micro_batch" in row} == {1: 4, 7: 2}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["micro_batch"] == 2


def test_out_of_memory_with_a_fixed_micro_batch(project, room_for_two_rows, tmp_path, capsys):
    assert train("--set", "training.micro_batch=4", "--out", tmp_path / "run") == 6
    assert "--set training.micro_batch=2" in capsys.readouterr().err


def test_a_model_too_large_for_any_memory(project, tmp_path, capsys):
    assert train("--set", "model_args.n_embd=1048576", "--out", tmp_path / "run") == 6
    assert "of memory, and" in capsys.readouterr().err


# ---- the processor --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "threads"), [("", 1), ("2", 2)])
def test_torch_has_no_thread_beyond_a_containers_quota(finished, monkeypatch, said, threads):
    """Unless somebody says so."""
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    monkeypatch.setattr(device, "available_cores", lambda: 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert main(["generate", str(finished), "--prompt", "th", "--max-tokens", "1"]) == 0
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("ranks", "threads"), [(1, 8), (3, 2), (16, 1)])
def test_ranks_share_the_cores(monkeypatch, ranks, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "available_cores", lambda: 8)
    assert device.share_of_cores(ranks) == threads


@pytest.mark.parametrize(
    ("has", "said", "ranks", "remarks"),
    [
        (2, "auto", 1, []),
        (1, "auto", 1, ["the run keeps the 1 thread that it began with: with 2, sums round otherwise"]),
        (4, 4, 1, ["4 threads share 2 cores: fewer are faster"]),
        (2, 2, 2, ["2 threads in each of 2 ranks share 2 cores: fewer are faster"]),
    ],
)
def test_what_to_know_of_threads_is_told(monkeypatch, has, said, ranks, remarks):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "available_cores", lambda: 2)
    mine = device.Device("cpu", "a processor", "fp32", has, False, "reference", 0)
    told = device.thread_remarks(mine, SimpleNamespace(threads=said), ranks)
    assert [text.partition(", see")[0] for text in told] == remarks


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA H200", "fp32", None),
        ("NVIDIA of tomorrow", "bf16", None),
    ],
)
def test_a_gpu_is_measured_against_its_own_data_sheet(name, precision, peak):
    assert device.Device("cuda", name, precision, 1, False, device.REFERENCE).peak_flops() == peak


# ---- the text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "empty"), (" \n\n ", "empty"), ("three", "fewer than one row"), ("a\0b", "NUL"), (b"a\xffb", "not UTF-8")],
)
def test_a_corpus_that_nothing_can_be_learned_from(project, tmp_path, capsys, text, words):
    (tmp_path / "corpus.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert train("--set", f"data.dataset.path={tmp_path}/corpus.txt", "--out", tmp_path / "run") == 3
    assert words in capsys.readouterr().err


def test_a_prompt_that_the_vocabulary_cannot_spell(finished, tmp_path, capsys):
    assert main(["generate", str(finished), "--prompt", "thé"]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "'é'" in shown.err
    # Of samples, which nobody asked for just now, it is told: the training is worth as much without them.
    assert train("--set", "logging.sample_prompt=thé", "--out", tmp_path / "run") == 0
    assert "note: samples have no prompt instead of logging.sample_prompt 'thé': " in capsys.readouterr().err
    (sample,) = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert json.loads(sample)["prompt"] == ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--checkpoint", "7"], 3),
        (["--checkpoint", "²"], 3),
        (["--checkpoint", "newest"], 3),
        (["--device", "cuda"], 6),
        (["--device", "banana"], 2),
        (["--temperature", "nan"], 2),
        (["--temperature", "inf"], 2),
        (["--temperature", "1e-320", "--max-tokens", "1"], 0),
        (["--top-p", "0"], 2),
        (["--top-p", "1.01"], 2),
        (["--top-p", "nan"], 2),
        (["--top-p", "1", "--max-tokens", "1"], 0),
        (["--seed", "99999999999999999999"], 2),
    ],
)
def test_generate_with_strange_options(finished, capsys, arguments, code):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has it")
    assert main(["generate", str(finished), "--prompt", "th", *arguments]) == code
    shown = capsys.readouterr()
    assert bool(shown.out) == (code == 0)
    assert bool(shown.err) == (code != 0)
    assert "internal" not in shown.err


# ---- a second Ctrl-C ------------------------------------------------------------------------------------------------


def train_with_a_step_that_never_ends(out: str) -> None:
    """The child: hangs at step 14, as a collective or a full pipe may."""

    def hang() -> None:
        Path(out, "hanging").touch()
        while True:
            time.sleep(0.01)

    train_meddled_with(14, hang, "--out", out)


def test_a_second_interrupt_ends_at_once(project, finished, tmp_path):
    out = tmp_path / "run"
    child = server.Process(target=train_with_a_step_that_never_ends, args=(str(out),))
    child.start()
    try:
        while not (out / "hanging").exists():
            assert child.is_alive()
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGINT)
        child.join(0.3)
        assert child.is_alive()
        os.kill(child.pid, signal.SIGINT)
        child.join(20)
        assert child.exitcode == -signal.SIGINT
    finally:
        child.kill()
    (out / "hanging").unlink()
    assert train("--out", out) == 0
    assert_same_run(out, finished)
