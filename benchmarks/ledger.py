"""How fast the ledger is: claims and results per second by how many processes at once, against what the disk allows,
and how long it takes to read and to make anew what a long search leaves behind.

uv run python benchmarks/ledger.py [--folder DIR] [--claims 400]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from foundry.lab.ledger import Ledger, Trial

EXPERIMENT = {"training": {f"setting_{n}": n * 0.1 for n in range(150)}}  # as JSON about as large as a real one
processes = multiprocessing.get_context("fork")


def disk(folder: Path) -> None:
    """What one append that the disk has acknowledged costs: at most one claim can be made in that time."""
    with open(folder / "appends", "ab") as file:
        took = []
        for _ in range(200):
            began = time.perf_counter()
            file.write(b"x" * 300)
            file.flush()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    print(f"append and fsync: median {sorted(took)[100] * 1e3:.2f} ms")


def prepare(folder: Path, trials: int) -> Path:
    project = Path(tempfile.mkdtemp(dir=folder))
    with Ledger.open(project) as ledger:
        sweep = ledger.start_sweep({"kind": "sweep"})
        all = [Trial("identity", seed, "code", "data", EXPERIMENT) for seed in range(trials)]
        ledger.request(sweep, [(trial, order, "screen", "arm", "1") for order, trial in enumerate(all)])
    return project


def work(project: Path, finish: bool, go: Any, done: Any) -> None:
    longest = count = 0.0
    with Ledger.open(project) as ledger:
        go.wait()
        while True:
            began = time.perf_counter()
            attempt = ledger.claim("worker")
            if attempt is None:
                break
            longest = max(longest, time.perf_counter() - began)
            count += 1
            if finish:
                ledger.finish(attempt, {"metrics": {"val_loss": 2.0}}, [{"step": 100, "val_loss": 2.0}] * 10)
    done.put((count, longest))
    time.sleep(3600)  # a dead process would lose its claims to the others


def race(folder: Path, workers: int, claims: int, finish: bool) -> None:
    project = prepare(folder, claims)
    go, done = processes.Event(), processes.Queue()
    children = [processes.Process(target=work, args=(project, finish, go, done)) for _ in range(workers)]
    for child in children:
        child.start()
    time.sleep(0.5)
    began = time.perf_counter()
    go.set()
    ends = [done.get() for _ in children]
    seconds = time.perf_counter() - began
    for child in children:
        child.kill()
        child.join()
    assert sum(count for count, _ in ends) == claims
    what = "claims and results" if finish else "claims"
    print(f"{workers:3} processes: {claims / seconds:5.0f} {what} a second, longest {max(e[1] for e in ends):.2f} s")


def read(folder: Path, trials: int) -> None:
    project = prepare(folder, trials)
    with Ledger.open(project) as ledger:
        began = time.perf_counter()
        ledger.tried()
        print(f"{trials} trials: read in {time.perf_counter() - began:.3f} s")
    for file in (project / ".foundry").glob("ledger.db*"):
        file.unlink()
    began = time.perf_counter()
    with Ledger.open(project):
        print(f"{trials} trials: made anew from the events in {time.perf_counter() - began:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--claims", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        disk(folder)
        for finish in (False, True):
            for workers in (1, 8, 32):
                race(folder, workers, options.claims, finish)
        read(folder, 10_000)


if __name__ == "__main__":
    main()
