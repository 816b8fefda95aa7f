"""Processes of Foundry as tests start them: by the command line, for what is light; else forked from one server that
has torch imported, so that to start one costs a fraction of a second, and not the seconds that the import takes."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ENVIRONMENT = os.environ | {"FOUNDRY_PLUGINS": "-*", "COLUMNS": "120"}
"""Of processes that know Foundry's own parts alone."""

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload([
    "foundry.core.training", "foundry.lab.sweep.lab", "foundry.lab.trials.executors.local",
    "foundry.lab.trials.worker", "foundry.cli.app", "foundry.modules.attention.mha", "foundry.modules.optimizer.adamw",
    "foundry.modules.optimizer.muon", "foundry.data.corpora.text", "foundry.data.tokenize.char", "foundry.data.rows",
    "torch._dynamo",  # which the meta device wants, for seconds
    "torch.nn.parallel", "tests.compiled_kernels",
])  # fmt: skip


def foundry(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`foundry ARGUMENTS` in a folder."""
    command = [sys.executable, "-m", "foundry.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT | environment, capture_output=True, text=True)


def assert_light(*arguments: str, cwd: Path) -> None:
    """A command does its work without what takes long to import."""
    script = (
        "import sys; from foundry.cli.__main__ import main; code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'numpy', 'rich', 'triton'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else code)"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run_ranks(size: int, folder: Path, arguments: Sequence[str], exit_code: int = 0) -> str:
    """`foundry ARGUMENTS` in `folder` by several ranks, as `--nproc` or torchrun would start them; all of them have to
    end with `exit_code`. Returns what they said."""
    return on_ranks(size, folder, partial(_foundry, arguments), exit_code)


def on_ranks(size: int, folder: Path, work: Callable[[], int], exit_code: int = 0) -> str:
    """`work()`, which returns an exit code, by each of several ranks in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    around = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    around["FOUNDRY_CACHE"] = os.environ.get("FOUNDRY_CACHE", f"{folder}/cache")
    ranks = [
        server.Process(target=_rank, args=(folder, {**around, "RANK": n, "LOCAL_RANK": n}, work)) for n in range(size)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    said = "\n".join((folder / f"rank-{n}.txt").read_text() for n in range(size))
    assert [rank.exitcode for rank in ranks] == [exit_code] * size, said
    return said


def wait_for(condition: Callable[[], Any]) -> Any:
    """What `condition` returns, as soon as it is true."""
    end = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def _foundry(arguments: Sequence[str]) -> int:
    from foundry.cli.__main__ import main

    return main(arguments)


def _rank(folder: Path, environment: dict[str, object], work: Callable[[], int]) -> None:
    os.chdir(folder)
    os.environ.update({name: str(value) for name, value in environment.items()})
    words = os.open(f"rank-{environment['RANK']}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(words, 1)
    os.dup2(words, 2)
    sys.exit(work())
