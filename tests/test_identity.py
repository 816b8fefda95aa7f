"""Which code a result is of: a run that two codes trained says so, a trial takes nothing from another code, and no
process of Foundry's imports what lies in the working directory or in a cache that others may write to."""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.project import know_noise, lines_of_words, write_project

from foundry.cli import progress
from foundry.cli.__main__ import main
from foundry.core import code, load_experiment
from foundry.core.code import UNKNOWN, code_fingerprint
from foundry.core.system import not_trusted
from foundry.core.system.signals import heeded
from foundry.core.training import launch
from foundry.core.training.reporter import PlainReporter
from foundry.kernels import build
from foundry.lab.ledger import Ledger
from foundry.lab.trials.executors import LocalParams
from foundry.lab.trials.executors.local import Local
from foundry.lab.trials.executors.site import WORKER, LedgerSite

BASELINE = """
model_args: {n_layer: 1, n_head: 2, n_embd: 16, block_size: 16, activation: tri}
data: {dataset: {type: text, path: corpus.txt}, tokenizer: char}
training: {max_iters: 12, batch_size: 4, learning_rate: 3.0e-3, eval_interval: 0, eval_tokens: 512, threads: 1,
           schedule: constant}
logging: {log_interval: 1, sample_tokens: 0}
checkpoints: {save_interval: 0}
"""
VARIANT = """
from foundry.core.contracts import ActivationParams, Variant
from .tri import Tri
VARIANTS = [Variant("activation", "tri", f"{Tri.__module__}:Tri", ActivationParams, "of a test")]
"""
TRI = """
def Tri(params, dims):
    from torch import nn
    class Tri(nn.Module):
        def forward(self, x):
            return x.clamp(min=0)
    return Tri()
"""


@pytest.fixture
def project(working_folder) -> Path:
    files = {"experiments/baseline.yaml": BASELINE, "variants/x.py": VARIANT, "variants/tri.py": TRI}
    return write_project(working_folder, {**files, "corpus.txt": lines_of_words(300)})


def edit_code(project: Path) -> None:
    """Edit what the variant's file imports."""
    write_project(project, {"variants/tri.py": TRI.replace("min=0", "min=-1")})


class Stopping(PlainReporter):
    def step(self, row, *progress):
        if row["step"] == 6:
            signal.raise_signal(signal.SIGTERM)


def begin(run: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "_chosen", Stopping)
        assert main(["train", "--out", str(run)]) == 75


def forget_codes(run: Path) -> None:
    """As a version left the checkpoint that did not keep them."""
    (folder,) = (run / "checkpoints").iterdir()
    state = json.loads((folder / "state.json").read_text())
    del state["codes"]
    text = json.dumps(state).encode()
    (folder / "state.json").write_bytes(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.json"] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_run_says_by_how_many_codes_it_was_trained(project, capsys):
    begin(project / "runs" / "begun")
    for name in ("same", "older", "edited"):
        shutil.copytree(project / "runs" / "begun", project / "runs" / name)
    shutil.rmtree(project / "runs" / "begun")
    first = code_fingerprint(load_experiment())

    def go_on(name: str) -> tuple[list[str], str, str]:
        capsys.readouterr()
        assert main(["train", "--out", f"runs/{name}"]) == 0
        said = capsys.readouterr()
        return json.loads((project / "runs" / name / "result.json").read_text())["codes"], said.out, said.err

    codes, out, error = go_on("same")
    assert codes == [first]
    assert "codes" not in out + error

    forget_codes(project / "runs" / "older")
    codes, out, error = go_on("older")
    assert codes == [UNKNOWN, first]

    edit_code(project)
    codes, out, error = go_on("edited")
    assert codes == [first, code_fingerprint(load_experiment())]
    assert len({*codes}) == 2
    assert "has changed since it was saved" in error
    assert "trained by 2 codes" in error
    assert "trained by 2 codes" in out

    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split("\t")[0] for line in lines if "trained by 2 codes" in line} == {"edited", "older"}


def test_a_trials_code_is_all_that_its_result_comes_of_and_not_who_asks_for_it(project, monkeypatch):
    read: list[str] = []
    monkeypatch.setattr(code, "_hash_of", lambda path: read.append(path.name) or path.name)

    def packages(*sets: str) -> set[str]:
        read.clear()
        code_fingerprint(load_experiment(sets=sets))
        return {*read}

    assert packages() == {"core", "modules", "kernels", "data"}
    for named in ("zoo:gpt2", "a_folder", "runs/other"):  # a conversion may be mended; whose a folder is may change
        assert packages(f"init_from={named}") == {"core", "modules", "kernels", "data", "zoo"}


@pytest.mark.parametrize("file", ["run.py", "testing/kit.py", "ledger/rows.py", "csrc/kernel.cpp"])
def test_no_source_of_a_package_is_left_out_of_its_hash(tmp_path, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    hashes = set()
    for text in ("one", "other"):
        (tmp_path / file).write_text(text)
        code._hash_of.cache_clear()
        hashes.add(code._hash_of(tmp_path))
    assert len(hashes) == 2


def test_a_trial_takes_no_result_of_other_code(project, capsys):
    know_noise(project)

    def losses() -> dict[str, float]:
        assert main(["sweep", "lr", "1e-4", "--executor", "inline", "--json"]) == 0
        capsys.readouterr()
        with Ledger.open(project) as ledger:
            return {row.run: row.result["metrics"]["val_loss"] for row in ledger.trials(status="finished")}

    first = losses()
    for run in first:  # as if somebody had trained there by hand, with the variant edited
        file = project / run / "result.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"codes": ["another"], "val_loss": 0.1}))
    for file in (project / ".foundry").glob("[el]*.*"):  # its ledger and its events: nothing is known any more
        file.unlink()
    know_noise(project)
    assert losses() == first
    edit_code(project)
    assert not losses().keys() <= first.keys()


@pytest.fixture
def shadowed(project) -> Path:
    """A working directory with files that are called like modules. To import one leaves `ran`."""
    for name in ("signal", "json", "torch", "typer", "foundry_modules", "pydantic"):
        (project / f"{name}.py").write_text(f"open({str(project / 'ran')!r}, 'w').write({name!r})\n1 / 0\n")
    return project


def test_no_child_imports_from_the_working_directory(shadowed, capfd):
    before = {number: signal.getsignal(number) for number in heeded()}
    assert launch.launch(["--version"], 1) == 0  # a rank
    assert {number: signal.getsignal(number) for number in before} == before
    with Ledger.open(shadowed) as ledger:
        local = Local(LocalParams(), LedgerSite(shadowed, 1, WORKER, ledger=ledger))
        worker = local.start(0, "cpu", 1)
        while not worker.ready and worker.process.poll() is None:
            select.select([worker.words], [], [])
            worker.listen()
        worker.dismiss()
        assert worker.process.wait() == 0, worker.log.read_text()
    by_module = [sys.executable, "-m", "foundry.cli", "config", "show"]
    (shadowed / "json.py").unlink()  # Python's own `-m` looks there before our first line is read
    done = subprocess.run(by_module, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (shadowed / "ran").exists()


def test_a_library_that_others_may_write_is_compiled_anew(tmp_path, monkeypatch):
    compiled: list[Path] = []

    def compile(command, library):
        library.write_bytes(b"ours")
        library.chmod(0o755)
        compiled.append(library)

    monkeypatch.setattr(build, "_compile", compile)
    monkeypatch.setattr(build.ctypes, "CDLL", lambda name: Path(name).read_bytes())
    monkeypatch.setattr(build, "compiler", lambda: sys.executable)
    monkeypatch.setattr(build, "_kept_in", None)
    monkeypatch.setattr(build, "_doubts", None)
    build.keep_in(tmp_path, not_trusted)
    load = build.load.__wrapped__
    assert (load(), load(), len(compiled)) == (b"ours", b"ours", 1)
    compiled[0].write_bytes(b"theirs")
    compiled[0].chmod(0o777)
    assert (load(), load(), len(compiled)) == (b"ours", b"ours", 2)
    if os.geteuid() == 0:
        compiled[0].write_bytes(b"theirs")
        os.chown(compiled[0], 12345, 12345)
        compiled[0].chmod(0o755)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "_compile", lambda command, library: (library.unlink(), compile(command, library)))
            assert load() == b"ours"
