"""The processes of a sweep, as the tests that kill them start them: real drivers and real workers, forked from a server
that has torch imported, so that to start one costs a fraction of a second; and instants at which they die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.processes import server
from tests.project import TINY, lines_of_words, write_project

from foundry.lab.baseline import current_baseline
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger import Ledger
from foundry.lab.ledger.journal import Journal
from foundry.lab.sweep.question import Question

BASELINE = f"""{TINY}
training:
  max_iters: 24
  batch_size: 4
  learning_rate: 3e-3
  eval_interval: 12
  eval_tokens: 512
  threads: 1
  kernels: reference
logging: {{log_interval: 5}}
checkpoints: {{save_interval: 6}}
"""
ARMS, DELTA, PAIRS = ("1e-2", "1.5e-2", "1e-3"), 0.03, 8  # much better, much better and noisy, much worse
QUESTION = Question(stacks=tuple((("lr", value),) for value in ARMS), rule=Rule(delta=DELTA, n_max=PAIRS))
COMMAND = ["sweep", "lr", *ARMS, "--delta", str(DELTA), "--max-pairs", str(PAIRS), "--jobs", "2", "--promote"]


def make_project(folder: Path, baseline: str = BASELINE) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return write_project(folder, {"experiments/baseline.yaml": baseline, "corpus.txt": lines_of_words(400)})


def start(target, project: Path, *options):
    child = server.Process(target=target, args=(project, *options))
    child.start()
    return child


def processes(project: Path) -> list[int]:
    """Those whose working directory is the project's; dead ones have none."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == project:
                found.append(int(entry.name))
    return found


# ---- What they do


def drive(project: Path) -> None:
    """A driver: the whole sweep, or what is left of it."""
    from foundry.lab.sweep.lab import open_lab

    settle(project, spares=5)
    try:
        with open_lab(project, jobs=2) as lab:
            lab.sweep(QUESTION, promote=True)
    except BaseException:
        (project / "failure.txt").write_text(traceback.format_exc())
        raise


def command(project: Path, spares: int, arguments: Sequence[str] = COMMAND, said: str = os.devnull) -> None:
    """A command line, by default the same sweep.

    Args:
        spares: how many processes it can start.
        said: a file in the project for what it writes, to both streams.
    """
    from foundry.cli.__main__ import main

    settle(project, spares)
    words = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(words, 1)
    os.dup2(words, 2)
    sys.exit(main(arguments))


def serve(project: Path, name: str, sweep: str, said: str) -> None:
    """A worker of a cluster: `--sweep`, with a file in the project for what it logs."""
    from foundry.lab.trials import worker

    settle(project, spares=0)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.argv = ["worker", str(project), "--name", name, "--sweep", sweep]
    sys.exit(worker.main())


def work(project: Path, sweep: str, instant: str = "") -> None:
    """A worker with one order, to which SIGTERM comes when it has `claimed` a trial, or `trained` one to its last
    step."""
    from foundry.core.training import run_training
    from foundry.lab.trials import worker

    def and_then(name, real):
        def call(*arguments):
            result = real(*arguments)
            if name == instant:
                os.kill(os.getpid(), signal.SIGTERM)
            return result

        return call

    Ledger.claim, run_training._finish = and_then("claimed", Ledger.claim), and_then("trained", run_training._finish)
    settle(project, spares=0)
    orders, ours = os.pipe()
    os.dup2(orders, 0)
    os.write(ours, json.dumps({"sweep": sweep}).encode() + b"\n")
    sys.argv = ["worker", str(project), "--name", "worker-0"]
    sys.exit(worker.main())


def look(project: Path) -> None:
    """What any command does first: repair the file of a promotion that was cut short."""
    settle(project, spares=0)
    with Ledger.open(project) as ledger:
        current_baseline(ledger, project)


def settle(project: Path, spares: int) -> None:
    os.chdir(project)
    os.environ["FOUNDRY_CACHE"] = str(project.parent / "cache")
    die_where_asked(project / "deaths")
    keep_spares(spares)


class Spare:
    """A process that has torch imported and waits to become a worker, in place of `python -m ...`, which takes 3 s of a
    busy machine to import it. It must exist before its driver opens the ledger: SQLite does not survive a fork."""

    def __init__(self) -> None:
        (self._theirs_in, ours_in), (ours_out, self._theirs_out) = os.pipe(), os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            self._wait_and_work()
        os.close(self._theirs_in)
        os.close(self._theirs_out)
        self.stdin, self.stdout = open(ours_in, "wb", 0), open(ours_out, "rb", 0)  # noqa: SIM115

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a worker", timeout)
            time.sleep(0.005)
        return self.returncode

    def _wait_and_work(self) -> None:
        from foundry.lab.trials import worker

        os.setsid()
        os.dup2(self._theirs_in, 0)
        os.dup2(self._theirs_out, 1)
        os.closerange(3, 1024)  # the driver's ends of the others' pipes, too: they must end with the driver
        os.chdir("/")
        line = b""
        while not line.endswith(b"\n"):
            if not (piece := os.read(0, 1)):
                os._exit(0)
            line += piece
        order = json.loads(line)
        os.chdir(order["folder"])
        os.environ.update(order["env"])
        os.dup2(os.open(order["log"], os.O_WRONLY | os.O_APPEND), 2)
        sys.argv = ["worker", *order["arguments"]]
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        code = 1
        try:
            code = worker.main()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)


def keep_spares(number: int) -> None:
    """Have this process start its workers from spares, as long as there are some."""
    spares, real = [Spare() for _ in range(number)], subprocess.Popen

    def popen(command, **options):
        if not spares or "foundry.lab.trials.worker" not in command:
            return real(command, **options)
        environment, log = options["env"], options["stderr"].name
        order = {"arguments": command[command.index("-m") + 2 :], "folder": os.getcwd(), "env": environment, "log": log}
        spare = spares.pop()
        with suppress(BrokenPipeError):
            spare.stdin.write(json.dumps(order).encode() + b"\n")
        return spare

    subprocess.Popen = popen


def die_where_asked(deaths: Path) -> None:
    """Whoever first comes to an instant that a file in `deaths` names removes the file, and is killed there. A worker
    that imports a plugin is asked to leave."""
    import foundry.core.registry.discovery as discovery
    import foundry.lab.baseline as promotion
    import foundry.lab.ledger.store as store

    def reached(instant: str) -> bool:
        try:
            (deaths / instant).unlink()
        except FileNotFoundError:
            return False
        return True

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def project(db, event, real=store.project) -> None:
        real(db, event)
        if reached(f"before the commit of {name_of(event)}"):
            die()

    def catch_up(self, after, keep=None, real=Journal.catch_up) -> None:
        last = self.last()
        for event in after(last.event.seq if last and last.event else 0):
            if reached(f"in the line of {name_of(event)}"):
                with self._held() as file:
                    file.write(event.line[: len(event.line) // 2])
                    file.flush()
                    die()
        real(self, after, keep)

    def replace(file, data, real=promotion.replace_durably) -> None:
        if reached("in the file"):
            file.with_name(f".{file.name}.partial").write_bytes(data[: len(data) // 2])
            die()
        real(file, data)
        if reached("after the file"):
            die()

    def importer(entry_point, real=discovery._importer):
        def import_module():
            if sys.argv[0] == "worker" and reached("at an import"):
                os.kill(os.getpid(), signal.SIGTERM)
            return real(entry_point)()

        return import_module

    store.project, Journal.catch_up, promotion.replace_durably = project, catch_up, replace
    discovery._importer = importer


def name_of(event) -> str:
    """`baseline_set promoted`, `sweep_finished`."""
    data = json.loads(event.data)
    return f"{event.kind} {data['kind']}" if event.kind == "baseline_set" else event.kind
