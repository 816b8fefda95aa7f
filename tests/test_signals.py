"""Real `foundry train` and `foundry sweep` processes, and what ends them: a terminal that closes, a scheduler's signal,
the death of their launcher. What was trained is saved, and the same command goes on.

tests/test_kill_and_resume.py has SIGINT, SIGTERM, SIGHUP and SIGKILL for a training, byte for byte.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.doses import not_in_small_doses
from tests.project import lines_of_words, write_project
from tests.sweep_processes import processes

STEPS = 2000
"""Seconds of training: more than passes between the first checkpoint and a signal."""
EXPERIMENT = f"""
model_args: {{n_layer: 1, n_head: 2, n_embd: 16, block_size: 16}}
data: {{dataset: {{type: text, path: corpus.txt}}, tokenizer: byte}}
training:
  max_iters: {STEPS}
  batch_size: 4
  eval_interval: 0
  eval_tokens: 512
  threads: 1
  kernels: reference
logging: {{log_interval: 1, sample_tokens: 0}}
checkpoints: {{save_interval: 20}}
"""
TRAIN = ("train", "--out", "run")
SWEEP = ("sweep", "lr", "1e-2", "--delta", "0.03", "--max-pairs", "2")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_project(tmp_path, {"experiments/baseline.yaml": EXPERIMENT, "corpus.txt": lines_of_words(400)})
    for name, value in {"FOUNDRY_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    yield tmp_path
    for pid in processes(tmp_path):  # of a test that failed
        os.kill(pid, signal.SIGKILL)


def as_a_shell_does(ignored: tuple[int, ...] = ()) -> Callable[[], None]:
    """What a process begins with: the tests themselves may be a background job, which ignores SIGINT."""

    def set_handlers() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    return set_handlers


def start(project: Path, *arguments: str, ignored: tuple[int, ...] = (), **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "foundry.cli", *arguments]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=project, preexec_fn=as_a_shell_does(ignored), **streams)


@contextmanager
def in_a_terminal(project: Path, *arguments: str, ignored: tuple[int, ...] = ()) -> Iterator[tuple[int, int]]:
    """The process and our side of its terminal. The terminal closes when our side does."""
    pid, ours = pty.fork()
    if not pid:
        as_a_shell_does(ignored)()
        os.chdir(project)
        os.execv(sys.executable, [sys.executable, "-m", "foundry.cli", *arguments])
    os.set_blocking(ours, False)
    yield pid, ours
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_until(reached: Callable[[], object], ours: int | None = None) -> None:
    """Reads what comes to a terminal meanwhile: one that is full would keep the process waiting."""
    while not reached():
        with suppress(OSError, TypeError):
            os.read(ours, 65536)
        time.sleep(0.01)


def saved(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in run.glob("checkpoints/step-*"))


def is_finished(project: Path) -> bool:
    return (project / "run" / "result.json").exists()


def goes_on(project: Path) -> None:
    """The same command trains from the last checkpoint to the end."""
    from_step = saved(project / "run")[-1]
    assert 0 < from_step < STEPS
    assert not is_finished(project)
    again = start(project, *TRAIN)
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert f" step={from_step} " in said.decode()


@not_in_small_doses  # there, a terminal sends one
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_a_training_which_is_saved(project, number):
    process = start(project, *TRAIN)
    wait_until(lambda: saved(project / "run"))
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 75, said
    assert b"Traceback" not in said
    goes_on(project)


def test_a_terminal_that_closes_ends_a_training_which_is_saved(project):
    with in_a_terminal(project, *TRAIN) as (pid, ours):
        wait_until(lambda: saved(project / "run"), ours)
        os.close(ours)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    goes_on(project)


@not_in_small_doses
def test_under_nohup_a_training_outlives_its_terminal(project):
    """Its bar has nowhere to be drawn any more, and its result no reader."""
    with in_a_terminal(project, *TRAIN, ignored=(signal.SIGHUP,)) as (pid, ours):
        wait_until(lambda: saved(project / "run"), ours)
        os.close(ours)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 141  # as where a pipe was closed
    assert is_finished(project)


@not_in_small_doses
def test_a_training_of_two_ranks_ends_with_its_launcher(project):
    """However it died: its ranks save, and leave the run to the next."""
    launcher = start(project, *TRAIN, "--nproc", "2", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: saved(project / "run"))
    before = saved(project / "run")[-1]
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not processes(project))
    assert saved(project / "run")[-1] >= before
    goes_on(project)


@not_in_small_doses  # there, in test_sweep_kills.py
@pytest.mark.parametrize("how", ["SIGHUP", "its terminal closes", "SIGKILL"])
def test_a_sweep_ends_and_goes_on(project, how):
    """So do its workers. What was trained by then is not trained again."""
    sweep = [*SWEEP, "--budget", "60 steps"]
    journal = project / ".foundry" / "events.jsonl"

    def finished() -> list[dict]:
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [event["data"] for event in map(json.loads, lines) if event["kind"] == "trial_finished"]

    with in_a_terminal(project, *sweep) as (pid, ours):
        wait_until(finished, ours)
        if how == "its terminal closes":
            os.close(ours)
        else:
            os.kill(pid, getattr(signal, how))
        wait_until(lambda: not processes(project), ours)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == (-signal.SIGKILL if how == "SIGKILL" else 75)
    known = finished()
    again = start(project, *sweep)
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert finished()[: len(known)] == known
    assert len({event["trial"] for event in finished()}) == len(finished())
