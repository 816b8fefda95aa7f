"""Commands on a system that lacks something: refusing_system.c says what it may refuse.

A process has that library preloaded and torch imported, and forks for each command, which so costs a fraction of a
second instead of eight.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_suffix(".c")
COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
STRANGER = 54321
"""A user whom no list of users knows."""
NAMES = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "FOUNDRY_CACHE")
"""The environment of an account that has none of what these say."""


@dataclass(frozen=True)
class Lack:
    """What a system lacks."""

    refused: Mapping[str, int] = field(default_factory=dict)  # calls of refusing_system.c, with their errors
    account: bool = True  # False: no home folder and no name; where the tests are root's, another user as well

    def __or__(self, other: Lack) -> Lack:
        return Lack({**self.refused, **other.refused}, self.account and other.account)


LACKS = {
    "nothing": Lack(),
    "locks": Lack({"flock": errno.ENOLCK, "record_lock": errno.ENOLCK}),
    "the locks of BSD": Lack({"flock": errno.ENOSYS}),
    "links": Lack({"link": errno.EPERM}),
    "flushes of folders": Lack({"sync_folder": errno.EINVAL}),
    "flushes": Lack({"sync_folder": errno.EOPNOTSUPP, "sync_file": errno.EINVAL}),
    "shared maps": Lack({"map": errno.ENODEV}),
    "an account": Lack({"user": 0}, account=False),
}
LACKS["everything"] = LACKS["locks"] | LACKS["links"] | LACKS["flushes"] | LACKS["shared maps"] | LACKS["an account"]


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class System:
    """Made by `refusing_system`."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder

    def foundry(self, lack: Lack, cwd: Path, *arguments: str, owner: bool = True, **environment: str) -> Done:
        """`foundry ARGUMENTS` in the folder `cwd`, of which it may write everything, unless another is its owner."""
        stranger = not (lack.account and owner) and os.getuid() == 0
        if stranger and owner:
            give(cwd, STRANGER)
        lacking = {} if lack.account else dict.fromkeys(NAMES)
        refused = " ".join(f"{call}={number}" for call, number in lack.refused.items())
        order = {
            "arguments": arguments,
            "cwd": str(cwd),
            "environment": {**lacking, "REFUSED": refused, **environment},
            "user": STRANGER if stranger else None,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(order), file=self.process.stdin, flush=True)
        code = int(self.process.stdout.readline())
        return Done(code, *((self.folder / name).read_text() for name in ("out", "err")))


def give(folder: Path, user: int) -> None:
    """Make everything in a folder a user's own."""
    for path in (folder, *folder.rglob("*")):
        os.lchown(path, user, user)


@contextmanager
def refusing_system(folder: Path) -> Iterator[System]:
    """The process that forks. `folder` is for its own files."""
    library = folder / "refusing_system.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment = kept | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    environment |= {"FOUNDRY_PLUGINS": "-*", "FOUNDRY_DEBUG": ""}
    command = [sys.executable, "-m", "tests.refusing_system", str(folder)]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        yield System(process, folder)


# ---- The process


PRELOADED = (
    "foundry.cli.main", "foundry.core.generate", "foundry.core.training", "foundry.lab.sweep.lab",
    "foundry.lab.trials.executors.local", "foundry.lab.trials.worker", "foundry.data.rows", "tests.sweep_processes",
    "torch._dynamo",  # which the meta device wants
)  # fmt: skip


def serve(folder: Path) -> None:
    """Fork for each order on standard input, and answer with the exit code."""
    for module in PRELOADED:
        import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            obey(json.loads(line), folder)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def obey(order: Mapping[str, object], folder: Path) -> None:
    """Run one command, in a process of its own."""
    from tests.sweep_processes import keep_spares

    from foundry.cli.__main__ import main

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    for name, value in order["environment"].items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    if order["user"] is not None and ctypes.CDLL(None).become(order["user"]) != 0:
        sys.exit("this container does not let its root become a user who may read everything")
    os.chdir(order["cwd"])
    streams = (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w"))
    for name, number, mode in streams:
        setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
    code = 99
    try:
        sys.argv = ["foundry", *order["arguments"]]  # which `--nproc` starts again
        keep_spares(2)
        code = main(order["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as ended:
        code = ended.code
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
