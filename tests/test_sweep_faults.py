"""A sweep survives its arms: whatever the code of a variant does, it is that arm's failure, with its reason and its
diff, and the others go on. Without the baseline there is no sweep, and that is told."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import documents
from tests.project import know_noise, working_in, write_project
from tests.sweep_processes import make_project, settle, start

from foundry.cli.__main__ import main
from foundry.core.contracts import ExitCode

PLUGIN = """
import ctypes, os, time
import torch
from torch import nn
from foundry.core.contracts import ActivationParams, Mutation, Params, Variant


class Part(nn.Module):
    def __init__(self, params, *around):
        super().__init__()
        self.begin()

    def begin(self): ...

    def forward(self, x):
        if x.device.type != "meta":  # it is trained, and not only counted
            self.train_()
        return x.relu()

    def train_(self): ...


class Factory(Part):
    def begin(self): raise KeyError("heads")

class Forward(Part):
    def forward(self, x): return x @ torch.ones(3, 3, device=x.device)

class Exits(Part):
    def begin(self): raise SystemExit(3)

class Interrupts(Part):
    def begin(self): raise KeyboardInterrupt

class Halts(Part):
    def forward(self, x): raise KeyboardInterrupt

class Late(Part):
    def train_(self): raise ValueError("a fault\\nin two lines")

class LateExit(Part):
    def train_(self): raise SystemExit(3)

class LateInterrupt(Part):
    def train_(self): raise KeyboardInterrupt

class Crash(Part):
    def begin(self): ctypes.string_at(0)

class LateEnd(Part):
    def train_(self): os._exit(3)

class Prints(Part):
    def train_(self):
        print("not JSON", os.environ["OMP_NUM_THREADS"], flush=True)
        os.write(1, b"nor is this\\n")

class Poison(Part):
    def train_(self):
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        os.chdir("/")

class Slow(Part):
    def forward(self, x):
        while True: pass

class Asleep(Part):
    def train_(self): time.sleep(3600)

class Deadlock(Part):
    def train_(self):  # in C, where no handler of Python's ever runs
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2): ctypes.CDLL(None).pthread_mutex_lock(mutex)

class Unbuilt(Part):
    def init_buffers(self): time.sleep(3600)  # which nobody asks of a model that is only counted

class Plain(Part): ...


class Picky(ActivationParams):
    def model_post_init(self, context): self.width = self.missing


def steps(params):
    def factor(step, progress): raise ZeroDivisionError
    return factor


def forget(experiment, value): return experiment["nothing"]


PARTS = Part.__subclasses__()
VARIANTS = [
    *(Variant("activation", each.__name__.lower(), f"{__name__}:{each.__name__}", ActivationParams) for each in PARTS),
    Variant("activation", "picky", f"{__name__}:Plain", Picky),
    Variant("schedule", "steps", f"{__name__}:steps", Params),
]
MUTATIONS = [Mutation("forget", forget, "of a test", "1")]
"""


@pytest.fixture
def project(tmp_path) -> Iterator[Path]:
    project = write_project(make_project(tmp_path / "project"), {"variants/odd.py": PLUGIN})
    with working_in(project, cache=tmp_path / "cache"):
        know_noise(project)
        yield project


@pytest.fixture
def foundry(project, capsys):
    """Runs a command with --json; its exit code, the objects of its stream, its error."""

    def run(*arguments: str) -> tuple[int, list[dict], dict]:
        code, lines, error = documents.stream(capsys, *arguments)
        return code, lines, json.loads(error)["error"] if error else {}

    return run


def line_of(words: str) -> str:
    return f"variants/odd.py:{next(n for n, line in enumerate(PLUGIN.splitlines(), 1) if words in line)}"


EARLY = {
    "factory": f"{line_of('KeyError')}: Factory.begin: KeyError: 'heads'",
    "forward": f"{line_of('torch.ones(3, 3')}: Forward.forward: RuntimeError: ",
    "exits": f"{line_of('def begin(self): raise SystemExit')}: Exits.begin: SystemExit: 3",
    "interrupts": f"{line_of('def begin(self): raise KeyboardInterrupt')}: Interrupts.begin: KeyboardInterrupt",
    "halts": f"{line_of('def forward(self, x): raise KeyboardInterrupt')}: Halts.forward: KeyboardInterrupt",
    "picky": f"{line_of('self.width')}: Picky.model_post_init: ",
}
LATE = {
    "late": f"{line_of('a fault')}: Late.train_: ValueError: a fault in two lines",
    "lateexit": "LateExit.train_: SystemExit: 3",
    "lateinterrupt": "LateInterrupt.train_: KeyboardInterrupt",
}


def test_what_fails_in_an_arm_is_its_failure_with_reason_and_diff_and_the_others_go_on(foundry, project, capsys):
    wanted = [*EARLY, *LATE, "plain", "poison"]
    code, lines, error = foundry("sweep", "activation", *wanted, "--executor", "inline", "--max-pairs", "1")
    assert (code, error) == (ExitCode.OK, {})
    result = lines[-1]
    refused = {each["name"].split()[1]: each["reason"] for each in result["refused"]}
    assert refused.keys() == EARLY.keys()
    for name, reason in EARLY.items():
        assert refused[name].startswith(reason)
    reasons = {arm["arm"].split()[1]: arm["reason"] for arm in result["arms"]}
    assert reasons.keys() == {*LATE, "plain", "poison"}
    for name, reason in LATE.items():
        assert reason in reasons[name]
    assert "failed" not in reasons["plain"] + reasons["poison"]

    found = documents.foundry(capsys, "query", "what=refusal")
    assert {row["arm"]: row["reason"] for row in found["rows"]} == {f"activation {k}": v for k, v in refused.items()}
    changes = {row["arm"]: row["changes"] for row in found["rows"]}
    assert changes["activation factory"] == ["model_args.activation: swiglu -> factory"]
    found = documents.foundry(capsys, "query", "status=failed")
    assert len(found["rows"]) == len(LATE)
    for row in found["rows"]:
        assert "Traceback" in (project / row["run"] / "error.log").read_text()


def test_a_schedule_that_fails_between_two_rungs_is_its_arms_failure(foundry):
    axes = ("--axis", "schedule=steps,wsd", "--axis", "lr=1e-3,2e-3")  # four arms: there are rungs
    code, lines, _ = foundry("sweep", *axes, "--executor", "inline", "--max-pairs", "1")
    assert code == ExitCode.OK
    reasons = {arm["arm"]: arm["reason"] for arm in lines[-1]["arms"]}
    assert [arm for arm, reason in reasons.items() if "ZeroDivisionError" in reason] == [
        "schedule steps + lr 1e-3", "schedule steps + lr 2e-3",
    ]  # fmt: skip


def test_where_every_arm_fails_it_is_the_plugins_fault(foundry, capsys):
    code, _, error = foundry("sweep", "activation", "factory", "exits", "--executor", "inline")
    assert (code, error["message"]) == (ExitCode.PLUGIN, "no arm of this sweep can be trained")
    assert EARLY["factory"] in error["hint"]
    assert EARLY["exits"] in error["hint"]
    capsys.readouterr()
    assert main(["sweep", "activation", "factory", "exits", "--dry-run"]) == ExitCode.OK
    assert "foundry mutate --list" in capsys.readouterr().err  # for what can be tried at all


@pytest.mark.parametrize(
    "command",
    [
        ["sweep", "lr", "1e-3"],
        ["noise", "--seeds", "2"],
        ["ablate", "--axis", "lr=1e-3"],
        ["sweep", "--null", "--arms", "1"],
        ["evolve", "--max-trials", "30", "--proposals", "1"],
    ],
    ids=" ".join,
)
def test_without_the_baseline_there_is_no_sweep(foundry, project, command):
    file = project / "experiments" / "baseline.yaml"
    file.write_text(file.read_text().replace("block_size: 16", "block_size: 16, activation: factory"))
    code, lines, error = foundry(*command, "--executor", "inline")
    assert (code, lines) == (ExitCode.PLUGIN, [])
    assert error["message"] == f"the baseline itself cannot be built: {EARLY['factory']}"


def test_an_ablation_and_a_comparison_say_which_cannot_be_built(foundry, project):
    axes = ("--axis", "activation=factory,plain", "--seeds", "1", "--executor", "inline")
    code, lines, _ = foundry("ablate", *axes)
    assert code == ExitCode.OK
    assert [cell["arm"] for cell in lines[-1]["cells"]] == ["baseline", "activation plain"]
    assert EARLY["factory"] in lines[-1]["refused"][0]["reason"]
    baseline = project / "experiments" / "baseline.yaml"
    other = project / "experiments" / "other.yaml"
    other.write_text(baseline.read_text().replace("block_size: 16", "block_size: 16, activation: factory"))
    for pair, name in (((baseline, other), "other"), ((other, baseline), "other")):
        code, _, error = foundry("compare", *map(str, pair), "--executor", "inline")
        assert code == ExitCode.PLUGIN
        assert error["message"].startswith(f"{name} cannot be built")


def test_a_search_is_spared_mutations_whose_code_fails(foundry):
    code, lines, _ = foundry("evolve", "--dry-run", "--max-trials", "30", "--proposals", "2")
    assert code == ExitCode.OK
    notes = [line["text"] for line in lines if line["event"] == "note"]
    assert any(f"forget 1 is not proposed: forget 1: the mutation failed: {line_of('def forget')}" in n for n in notes)
    assert "forget" not in lines[-1]["space"]


def sweep_apart(project: Path, *arms: str) -> None:
    """The command in a process of its own, whose workers are processes, with less patience than usual."""
    from foundry.lab.ledger import events
    from foundry.lab.trials import time_limit
    from foundry.lab.trials.executors import local

    local.COUNT_SECONDS = 20
    events.MAX_FAILURES = 1
    time_limit.GRACE_SECONDS = time_limit.BUILD_SECONDS = 1.0
    settle(project, spares=8)
    os.environ["OMP_NUM_THREADS"] = "999"  # of whoever begins a sweep: its workers have the threads of their trials
    os.dup2(os.open("out", os.O_CREAT | os.O_WRONLY), 1)
    main(["sweep", "activation", *arms, "--max-pairs", "1", "--json"])


def test_an_arm_that_ends_its_process_ends_no_sweep_and_disturbs_no_other_arm(project):
    """Workers count what plugins' models cost, and train. What one prints is not taken for what the worker says, and
    what it sets for its process is not what the next one computes with."""
    child = start(sweep_apart, project, "crash", "poison", "lateend", "prints", "plain")
    child.join()
    lines = [json.loads(line) for line in (project / "out").read_text().splitlines()]
    result = lines[-1]
    assert result["event"] == "result"
    refused = {each["name"]: each["reason"] for each in result["refused"]}
    assert refused["activation crash"].startswith(f"{line_of('ctypes.string_at')}: begin: its worker crashed: SIGSEGV")
    reasons = {arm["arm"]: arm["reason"] for arm in result["arms"]}
    ended = f"activation lateend ({line_of('class LateEnd')}): its worker ended: exit code 3"
    assert ended in reasons["activation lateend"]
    screened = [line for line in lines if line.get("status") == "finished" and line["budget"] == "1/2"]
    losses = {line["arm"]: line["val_loss"] for line in screened}
    assert losses["activation poison"] == losses["activation prints"] == losses["activation plain"]
    log = (project / ".foundry" / "worker-0.log").read_text()
    assert re.search(r"not JSON \d\d?\b", log)
    assert "the trial has set torch's default dtype to torch.float64; it is set back" in log


@pytest.mark.slow
def test_a_model_that_never_gets_built_is_its_arms_failure(project):
    child = start(sweep_apart, project, "slow", "plain")
    child.join()
    result = json.loads((project / "out").read_text().splitlines()[-1])
    reason = result["refused"][0]["reason"]
    assert reason.startswith(f"{line_of('while True')}: forward: it takes too long to be built and counted")
    assert [arm["arm"] for arm in result["arms"]] == ["activation plain"]


@pytest.mark.slow
def test_a_training_that_never_returns_ends_with_its_time_limit(project):
    """Asleep, in C, or before its first step."""
    child = start(sweep_apart, project, "asleep", "deadlock", "unbuilt", "--trial-seconds", "5")
    child.join()
    result = json.loads((project / "out").read_text().splitlines()[-1])
    reasons = {arm["arm"].split()[1]: arm["reason"] for arm in result["arms"]}
    for name, line, what in (
        ("asleep", "def train_(self): time.sleep", ", in {} (Asleep.train_)"),
        ("deadlock", "pthread_mutex_lock", ", in {} (Deadlock.train_)"),
        ("unbuilt", "def init_buffers(self): time", " to be built, in {} (Unbuilt.init_buffers)"),
    ):
        assert f"timeout: it took longer than 5 s{what.format(line_of(line))}" in reasons[name]
