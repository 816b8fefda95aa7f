"""Which kernels a run computes with: decided once, written down, and kept by every resume."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.documents import faults
from tests.project import TINY, lines_of_words, write_project

from foundry.cli.__main__ import main
from foundry.core import load_experiment, load_run
from foundry.core.contracts import EnvironmentFailure, InvalidExperiment
from foundry.core.testing import sums_of
from foundry.core.testing.rounding import rounding
from foundry.core.training import bench
from foundry.core.training.device import Device, resolve
from foundry.kernels import matmul, native
from foundry.lab.ledger import Ledger
from foundry.lab.trials.fingerprint import make_trial
from foundry.lab.trials.setting import Setting
from foundry.lab.trials.worker import Worker

EXPERIMENT = f"""{TINY}
training: {{max_iters: 4, batch_size: 4, eval_tokens: 64, eval_interval: 0, threads: 1}}
logging: {{sample_tokens: 0}}
"""


@pytest.fixture
def project(working_folder):
    yield write_project(working_folder, {"tiny.yaml": EXPERIMENT, "corpus.txt": lines_of_words(30)})
    native.use([])


def all_are_here(monkeypatch, reason: str = "") -> None:
    for kernel in native.BY_NAME.values():
        monkeypatch.setattr(kernel, "missing", lambda: reason)
        monkeypatch.setattr(kernel, "suits", lambda: True)


def training(*settings: str):
    return load_experiment(Path("tiny.yaml"), list(settings)).training


def device_of(run: str) -> dict:
    return json.loads(Path(run, "config.json").read_text())["device"]


def test_auto_takes_what_the_machine_has_for_fp32_on_a_cpu(project, monkeypatch):
    all_are_here(monkeypatch)
    cpu = "training.device=cpu"
    everything = "+".join(sorted(native.BY_NAME))
    assert resolve(training(cpu)).kernels == everything
    assert resolve(training(cpu, "training.kernels=native")).kernels == everything
    for setting in ("training.kernels=reference", "training.compile=true", "training.precision=bf16"):
        assert resolve(training(cpu, setting)).kernels == "reference"
    all_are_here(monkeypatch, "it is Tuesday")
    assert resolve(training(cpu)).kernels == "reference"


def test_auto_leaves_out_what_is_not_known_to_be_faster(project, monkeypatch):
    all_are_here(monkeypatch)
    for kernel in native.BY_NAME.values():
        monkeypatch.setattr(kernel, "suits", lambda: False)
    assert resolve(training("training.device=cpu")).kernels == "reference"
    assert resolve(training("training.device=cpu", "training.kernels=native")).kernels != "reference"


@pytest.mark.parametrize("wanted", ["auto", "reference", "native"])
def test_bench_measures_each_choice_of_kernels_where_a_run_could_have_it(project, monkeypatch, capsys, wanted):
    all_are_here(monkeypatch)
    for kernel in native.BY_NAME.values():
        monkeypatch.setattr(kernel, "switch", lambda on: None)
    everything = f"native:{'+'.join(sorted(native.BY_NAME))}"
    seconds = {"reference": 2.0, everything: 1.0}
    monkeypatch.setattr(
        bench, "step_seconds", lambda experiment, vocab_size, device, _: seconds[bench.setting_of(device.kernels)]
    )
    experiment = load_experiment(Path("tiny.yaml"), ["training.device=cpu", f"training.kernels={wanted}"])
    padded = bench.bench(experiment, 9, padding=0.25)
    tokens = 0.75 * experiment.training.batch_size * experiment.model_args.block_size
    for each in padded["choices"]:
        assert each["tokens_per_second"] == tokens / each["step_seconds"] == tokens / seconds[each["kernels"]]
    sets = ["--set", "training.device=cpu", "--set", f"training.kernels={wanted}"]
    assert main(["bench", "tiny.yaml", *sets, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert faults("bench choices", measured) == []
    best = [word for each in measured["sets"] for word in ("--set", each)]
    assert measured["next"].split() == ["foundry", "train", "tiny.yaml", *sets, *best]
    assert {each["kernels"] for each in measured["choices"]} == {everything, "reference"}
    for each in measured["choices"]:  # each is what a run comes to that is told so
        told = [f"training.{key}={str(each[key]).lower()}" for key in ("kernels", "precision", "compile")]
        assert bench.setting_of(resolve(training("training.device=cpu", *told)).kernels) == each["kernels"]
    assert f"training.kernels={everything}" in measured["sets"]


def test_a_step_of_a_bench_is_one_step(project, monkeypatch):
    steps: list[None] = []  # each of which takes a second here
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: len(steps)))
    monkeypatch.setattr(bench, "clip_gradients", lambda *_: steps.append(None))
    experiment = load_experiment(Path("tiny.yaml"), ["training.device=cpu"])
    assert bench.step_seconds(experiment, 9, resolve(experiment.training), seconds=4) == 1


def test_native_kernels_that_cannot_be_had_are_an_error_that_says_why(project, monkeypatch):
    all_are_here(monkeypatch, "it is Tuesday")
    with pytest.raises(EnvironmentFailure, match="matmul: it is Tuesday"):
        resolve(training("training.device=cpu", "training.kernels=native"))
    all_are_here(monkeypatch)
    for setting, here in (
        ("training.precision=bf16", "bf16 on cpu"),
        ("training.compile=true", "fp32 on cpu, compiled"),
    ):
        with pytest.raises(
            EnvironmentFailure, match=f"they need fp32 on the CPU without compilation, and this is {here}"
        ):
            resolve(training("training.device=cpu", "training.kernels=native", setting))


def test_a_run_keeps_the_kernels_it_began_with(project, monkeypatch, capsys):
    all_are_here(monkeypatch)
    assert main(["train", "tiny.yaml", "--out", "run", "--set", "training.device=cpu"]) == 0
    assert device_of("run")["kernels"] == "+".join(sorted(native.BY_NAME))
    saved = Device(**device_of("run"))
    assert resolve(training("training.kernels=reference"), saved=saved).kernels == saved.kernels
    all_are_here(monkeypatch, "it is Tuesday")
    capsys.readouterr()
    assert main(["train", "tiny.yaml", "--out", "run", "--set", "training.device=cpu", "--eval-only"]) == 6
    said = capsys.readouterr().err
    assert "it is Tuesday" in said
    assert "Traceback" not in said


def test_a_run_from_before_there_were_kernels_goes_on_without_them(project):
    device = {"type": "cpu", "model": "abacus", "precision": "fp32", "threads": 1, "compile": False, "local_rank": 0}
    assert Device.saved_in({"device": device}, source="config.json").kernels == "reference"


def test_the_default_is_no_part_of_an_experiments_identity(project):
    plain = load_experiment(Path("tiny.yaml"))
    assert plain.identity == load_experiment(Path("tiny.yaml"), ["training.kernels=auto"]).identity
    assert plain.identity != load_experiment(Path("tiny.yaml"), ["training.kernels=reference"]).identity


def test_a_step_with_native_kernels_is_the_same_step(project, monkeypatch):
    """A wider model, so that its products are large enough for them."""
    all_are_here(monkeypatch)
    monkeypatch.setattr(matmul, "WORTH_IT", 1)
    wide = ["model_args.n_embd=64", "training.device=cpu", "logging.log_interval=1"]
    wide += ["training.optimizer={type: adamw, eps: 1e-2}"]  # which does not blow up the noise of gradients near 0
    losses = {}
    for kernels in ("native", "reference"):
        sets = [f"--set={setting}" for setting in (*wide, f"training.kernels={kernels}")]
        assert main(["train", "tiny.yaml", "--out", kernels, *sets]) == 0
        losses[kernels] = [
            json.loads(line)["train_loss"] for line in Path(kernels, "metrics.jsonl").read_text().splitlines()
        ]
    sums = sums_of(load_run("reference").model, tokens=4 * 16) * len(losses["native"])
    assert losses["native"] == pytest.approx(losses["reference"], rel=rounding(torch.float32, *sums))


def test_kernels_can_be_named(project, monkeypatch):
    all_are_here(monkeypatch)
    cpu = "training.device=cpu"
    assert resolve(training(cpu, "training.kernels=native:matmul")).kernels == "matmul"
    for setting in ("training.kernels=native:abacus", "training.compile=true"):
        with pytest.raises(EnvironmentFailure):
            resolve(training(cpu, "training.kernels=native:matmul", setting))
    with pytest.raises(InvalidExperiment, match="kernels"):
        training("training.kernels=matmul")


def test_all_workers_of_a_sweep_use_the_kernels_that_were_there_when_it_was_planned(project, monkeypatch):
    all_are_here(monkeypatch)
    experiment = load_experiment(Path("tiny.yaml"), ["training.device=cpu"])
    setting = Setting.of(experiment, 1)
    trial = make_trial(experiment, 1, setting)
    with Ledger.open(project) as ledger:
        sweep = ledger.start_sweep({"kind": "sweep"})
        ledger.request(sweep, [(trial, 0, "screen", "baseline", "1")])
        worker = Worker(ledger, "a worker")
        all_are_here(monkeypatch, "it is Tuesday")
        assert make_trial(experiment, 1, setting).id == trial.id
        with pytest.raises(EnvironmentFailure, match="it is Tuesday"):
            worker.work(sweep)
        assert ledger.trial(trial.id).status == "queued"  # for a worker who has them
        all_are_here(monkeypatch)
        assert worker.work(sweep)
        row = ledger.trial(trial.id)
    assert (row.status, device_of(row.run)["kernels"]) == ("finished", "+".join(sorted(native.BY_NAME)))
