"""SIGKILL at any instant, then the same command again: the finished run is byte for byte the one that never stopped.

Runs are real processes, forked from a server that has torch imported, so that a kill costs a fraction of a second.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.doses import SMALL
from tests.processes import server
from tests.project import lines_of_words, working_in, write_project
from tests.runs import assert_same_run, rows

from foundry.core.config import load_experiment
from foundry.core.contracts import InvalidData

STEPS, SAVE_INTERVAL = 40, 4
EXPERIMENT = f"""
model_args: {{n_layer: 2, n_head: 2, n_embd: 32, block_size: 32, dropout: 0.1}}
data: {{dataset: {{type: text, path: corpus.txt}}, tokenizer: char}}
training:
  max_iters: {STEPS}
  batch_size: 8
  learning_rate: 3e-3
  optimizer: muon
  ema: 0.9
  eval_interval: 7
  threads: 1
logging: {{log_interval: 3, sample_interval: 16, sample_prompt: "th", sample_tokens: 5}}
checkpoints: {{save_interval: {SAVE_INTERVAL}, keep: 2}}
"""


def train_in_child(file: str, out: str, die_at_sync: int | None) -> None:
    """The child: trains; with `die_at_sync` it kills itself at that call of fsync, which is in the middle of saving."""
    from foundry.core.training import train
    from foundry.core.training.reporter import PlainReporter

    if die_at_sync is not None:
        real, calls = os.fsync, iter(range(1, 10**9))

        def fsync(descriptor):
            if next(calls) == die_at_sync:
                os.kill(os.getpid(), signal.SIGKILL)
            real(descriptor)

        os.fsync = fsync

    class Quiet(PlainReporter):
        def _print(self, text): ...

    train(load_experiment(file), out, reporter=Quiet())


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Iterator[Path]:
    files = {"experiment.yaml": EXPERIMENT, "corpus.txt": lines_of_words(400)}
    with working_in(write_project(tmp_path_factory.mktemp("project"), files)) as folder:
        yield folder


@pytest.fixture(scope="module")
def uninterrupted(project) -> Path:
    start(project, project / "uninterrupted").join()
    assert (project / "uninterrupted" / "result.json").exists()
    return project / "uninterrupted"


def start(project: Path, out: Path, die_at_sync: int | None = None):
    child = server.Process(target=train_in_child, args=(str(project / "experiment.yaml"), str(out), die_at_sync))
    child.start()
    return child


def assert_same_training(out: Path, reference: Path) -> None:
    """As `assert_same_run`; besides, no step stands twice in the metrics, and the results are the same."""
    assert_same_run(out, reference)
    steps = [str(row["step"]) for row in rows(out)]
    assert steps == [str(step) for step in range(1, STEPS + 1)]
    assert [line.split(",")[0] for line in (out / "metrics.csv").read_text().splitlines()] == ["step", *steps]
    ours, theirs = (json.loads((run / "result.json").read_text()) for run in (out, reference))
    keys = ("step", "tokens", "train_loss", "val_loss", "val_bpb", "best_step", "best_val_loss")
    assert [ours[key] for key in keys] == [theirs[key] for key in keys]


def kill_at_random(project: Path, out: Path, kills: int, seed: int) -> None:
    """Each child lives until it has written something new and a random while longer; one in five dies at once."""
    draw = random.Random(seed)
    metrics, done, resumed = out / "metrics.jsonl", 0, 0
    while done < kills:
        child = start(project, out)
        if draw.random() < 0.8:
            saved = max((int(path.name[5:13]) for path in (out / "checkpoints").glob("step-*")), default=0)
            before = metrics.stat().st_ino if metrics.exists() else 0  # a resume begins by replacing the file
            while child.is_alive() and not (
                metrics.exists() and metrics.stat().st_ino != before and metrics.read_bytes().count(b"\n") > saved
            ):
                time.sleep(0.001)
        child.join(draw.uniform(0, 0.25))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        if child.exitcode == -signal.SIGKILL:
            done += 1
            resumed += bool(list((out / "checkpoints").glob("step-*")))
        else:
            assert child.exitcode == 0
            assert_same_training(out, project / "uninterrupted")  # finished early: the other kills meet a new run
            shutil.rmtree(out)
    assert resumed >= kills / 4  # else nothing was tried
    child = start(project, out)
    child.join()
    assert child.exitcode == 0


def test_ten_kills_at_random_instants(project, uninterrupted):
    out = project / "killed"
    kill_at_random(project, out, 10, seed=1)
    assert_same_training(out, uninterrupted)


def test_kills_in_the_middle_of_saving(project, uninterrupted):
    """One kill at each flush to disk of the first saves: half-written files, unpublished folders, retired ones."""
    out = project / "killed-while-saving"
    for call in (1, 3, 6, 8, 11, 13, 15, 18):
        child = start(project, out, die_at_sync=call)
        child.join()
        assert child.exitcode == -signal.SIGKILL
    child = start(project, out)
    child.join()
    assert child.exitcode == 0
    assert_same_training(out, uninterrupted)
    assert not list((out / "checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.timeout(3600)  # one to two seconds a kill
def test_two_hundred_kills(project, uninterrupted):
    kills = 10 if SMALL else 200
    seed = int(time.time())
    print("seed", seed)
    out = project / "killed-many"
    kill_at_random(project, out, kills, seed)
    assert_same_training(out, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_the_run_goes_on_from_there(project, uninterrupted, number):
    out = project / f"stopped-{number}"
    child = start(project, out)
    while not (out / "checkpoints").exists() or not list((out / "checkpoints").glob("step-*")):
        time.sleep(0.01)
    os.kill(child.pid, number)
    child.join()
    assert child.exitcode == 1  # `Stopped` reached the top; the command line turns it into 75
    steps = sorted(path.name for path in (out / "checkpoints").glob("step-*"))
    assert not (out / "result.json").exists()
    last_row = rows(out)[-1]
    assert steps[-1] == f"step-{last_row['step']:08d}"  # nothing between the save and the stop is lost
    child = start(project, out)
    child.join()
    assert_same_training(out, uninterrupted)


def stop_while_evaluating(file: str, out: str) -> None:
    """A child that is asked to stop in the middle of its second evaluation."""
    import foundry.core.training.jobs as jobs

    real, calls = jobs.validation_loss, iter(range(10**9))

    def evaluate(*arguments, **options):
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    jobs.validation_loss = evaluate
    train_in_child(file, out, None)


def test_an_evaluation_cut_short_is_the_first_thing_that_a_resume_does(project, uninterrupted):
    out = project / "stopped-while-evaluating"
    child = server.Process(target=stop_while_evaluating, args=(str(project / "experiment.yaml"), str(out)))
    child.start()
    child.join()
    assert max((out / "checkpoints").glob("step-*")).name == "step-00000014"
    assert "val_loss" not in rows(out)[13]
    start(project, out).join()
    assert_same_training(out, uninterrupted)


def test_one_process_at_a_time(project):
    from foundry.core.contracts import EnvironmentFailure
    from foundry.core.training import train

    out = project / "shared"
    child = start(project, out)
    while not (out / "metrics.jsonl").exists():
        time.sleep(0.005)
    with pytest.raises(EnvironmentFailure, match="another process"):
        train(load_experiment(project / "experiment.yaml"), out)
    child.join()
    assert child.exitcode == 0


def damage(kind: str, folder: Path) -> str:
    """Harm the newest checkpoint and return the name of the file that is to blame."""
    newest = max(folder.glob("step-*"))
    model = newest / "model.safetensors"
    if kind == "truncated":
        model.write_bytes(model.read_bytes()[:-100])
    elif kind == "bit flipped":
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(bytes(data))
    elif kind == "swapped":
        (newest / "ema.safetensors").write_bytes(model.read_bytes())
        return "ema.safetensors"
    elif kind == "emptied":
        (newest / "state.json").write_bytes(b"")
        return "state.json"
    elif kind == "missing":
        (newest / "optimizer.safetensors").unlink()
        return "optimizer.safetensors"
    elif kind == "of another step":
        shutil.rmtree(newest)
        shutil.copytree(min(folder.glob("step-*")), newest)
        return "step"
    elif kind == "manifest edited":
        manifest = newest / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"sha256": "', '"sha256": "0'))
        return ".safetensors"
    return "model.safetensors"


KINDS = ["truncated", "bit flipped", "swapped", "emptied", "missing", "of another step", "manifest edited"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(project, uninterrupted, kind, capsys):
    from foundry.core.training import train

    out = project / f"damaged {kind}"
    shutil.copytree(uninterrupted, out)
    (out / "result.json").unlink()
    blamed = damage(kind, out / "checkpoints")
    train(load_experiment(project / "experiment.yaml"), out)
    refused = [line for line in capsys.readouterr().err.splitlines() if "refused" in line]
    assert len(refused) == 1
    assert blamed in refused[0]
    assert f"step-{STEPS:08d}" in refused[0]
    assert_same_training(out, uninterrupted)


def test_when_every_checkpoint_is_damaged_nothing_starts_over(project, uninterrupted):
    from foundry.core.training import train

    out = project / "all damaged"
    shutil.copytree(uninterrupted, out)
    (out / "result.json").unlink()
    for folder in (out / "checkpoints").glob("step-*"):
        (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InvalidData, match="no checkpoint") as caught:
        train(load_experiment(project / "experiment.yaml"), out)
    assert caught.value.message.count("model.safetensors") == len(list((out / "checkpoints").glob("*.corrupt")))
