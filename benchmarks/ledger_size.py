"""What a ledger of many trials costs: every command that reads it, the report's page, and the start of a sweep.

uv run python benchmarks/ledger_size.py                            # wanted: < 2 s each, a page of <= 5 MB
uv run python benchmarks/ledger_size.py --peer CHECKOUT            # and the code of another checkout beside ours
uv run python benchmarks/ledger_size.py --project DIR --keep DIR   # the ledger to clone, where the large one stays

A small real sweep is cloned, event by event, until there are so many trials: with other ids, other arms and later
times. Every side gets the same events.jsonl, makes its own database of it, and runs the same commands, each a process
of its own; the two sides take turns. Seconds are the least of --rounds, memory the most. On a busy machine read the
processor's seconds, which are those that the process had the processor for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sweep import new_project

ROOT = Path(__file__).resolve().parents[1]
KINDS_OF_PROJECT = ("ledger_created", "baseline_set", "baseline_rendered", "noise_measured")
"""Events that stay as they are, once."""
IDS = re.compile(r'"([0-9a-f]{12,64})"')
CONTROL = "baseline"

START = """
import sys, time
from pathlib import Path
from foundry.lab.ledger import Ledger, Trial
began = time.perf_counter()
with Ledger.open(Path.cwd()) as ledger:
    opened = time.perf_counter() - began
    spec = {"kind": "sweep", "generation": 0, "now": time.time()}
    sweep = ledger.start_sweep(spec)
    trials = [Trial("identity", seed, str(time.time()), "data", {}) for seed in range(8)]
    ledger.request(sweep, [(trial, order, "screen", "arm", "1") for order, trial in enumerate(trials)])
    ledger.release(ledger.claim("worker", sweep))
    ledger.finish_sweep(sweep, {"winner": None})
"""


class Cost(NamedTuple):
    """Of one process."""

    seconds: float
    cpu: float  # seconds of the processor
    peak: float  # bytes
    written: int  # bytes on standard output


def real_sweep(folder: Path) -> Path:
    """A project with the ledger of a small real sweep."""
    project = new_project(folder, 30, 1)
    command = [*foundry(ROOT), "sweep", "activation", "relu2", "geglu", "gelu", "--jobs", "2", "--budget", "30 steps"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    if done.returncode not in (0, 5):
        raise SystemExit(f"foundry sweep\n{done.stderr}")
    return project


def cloned(lines: Sequence[bytes], trials: int) -> Iterator[bytes]:
    """The lines of a ledger like this one, with so many trials."""
    events = [json.loads(line) for line in lines]
    per_clone = sum(len(event["data"]["trials"]) for event in events if event["kind"] == "trials_requested")
    span = events[-1]["time"] - events[0]["time"]
    seq = 0
    for clone in range(-(-trials // per_clone)):
        moved: dict[int, int] = {}  # seq in the original -> here: a claim's is the attempt's id
        for event in events:
            if clone and event["kind"] in KINDS_OF_PROJECT:
                continue
            seq += 1
            moved[event["seq"]] = seq
            data = event["data"]
            if "attempt" in data:
                data = {**data, "attempt": moved[data["attempt"]]}
            text = json.dumps(_renamed(data, clone), sort_keys=True, separators=(",", ":"))
            if clone and event["kind"] not in KINDS_OF_PROJECT:
                text = IDS.sub(partial(_other, clone), text)
            head = json.dumps({"seq": seq, "time": event["time"] + clone * span, "kind": event["kind"]})
            yield f'{head[:-1]}, "data": {text}}}\n'.encode()


def _other(clone: int, found: re.Match[str]) -> str:
    id = found[1]
    return f'"{hashlib.sha256(f"{clone} {id}".encode()).hexdigest()[: len(id)]}"'


def _renamed(value: Any, clone: int) -> Any:
    """Arms have other names in each clone."""
    if isinstance(value, list):
        return [_renamed(each, clone) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: f"{each}_{clone}" if clone and key == "arm" and each != CONTROL else _renamed(each, clone)
        for key, each in value.items()
    }


def foundry(checkout: Path) -> list[str]:
    return [str(checkout / ".venv/bin/python"), "-m", "foundry.cli"]


def cost(command: Sequence[str], project: Path) -> Cost:
    """Run it to its end. Exits 0, or the benchmark ends."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FOUNDRY_PLUGINS": "-*"}
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=project, stdout=out, stderr=said, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{said.read().decode()}")
        return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, out.seek(0, os.SEEK_END))


def commands(project: Path) -> dict[str, list[str]]:
    """What is run, by the name under which it is shown."""
    found = json.loads(subprocess.run([*foundry(ROOT), "query", "what=decision", "--json"], cwd=project, text=True,
                                      capture_output=True, check=True).stdout)["rows"]  # fmt: skip
    decision = [found[-1]["id"]] if found else []
    return {
        "runs": ["runs"],
        "runs --json": ["runs", "--json"],
        "query": ["query"],
        "query slot=activation verdict=reject": ["query", "slot=activation", "verdict=reject"],
        "query what=trial --json": ["query", "what=trial", "--json"],
        "why": ["why", *decision],
        "lineage": ["lineage"],
        "report": ["report", "--out", "page.html"],
        "report --json": ["report", "--json"],
        "sweep --dry-run": ["sweep", "activation", "relu2", "geglu", "--dry-run"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peer", type=Path, help="another checkout, with its .venv")
    parser.add_argument("--project", type=Path, help="whose ledger is cloned, instead of a new one's")
    parser.add_argument("--keep", type=Path, help="a folder in which the large ledgers stay, and are found again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (options.keep or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        small = options.project or real_sweep(folder / "small")
        sides = {"ours": ROOT} | ({"peer": options.peer.resolve()} if options.peer else {})
        for side, checkout in sides.items():
            project = folder / side
            if (project / ".foundry" / "ledger.db").exists():
                continue
            (project / ".foundry").mkdir(parents=True)
            shutil.copytree(small / "experiments", project / "experiments")
            lines = (small / ".foundry" / "events.jsonl").read_bytes().splitlines()
            with open(project / ".foundry" / "events.jsonl", "wb") as file:
                count = sum(1 for line in cloned(lines, options.trials) if file.write(line))
            made = cost([*foundry(checkout), "lineage"], project)
            sizes = [(project / ".foundry" / each).stat().st_size / 1e6 for each in ("events.jsonl", "ledger.db")]
            what = f"{count:,} events, {sizes[0]:.0f} MB, the database {sizes[1]:.0f} MB"
            print(f"{side}: {what}, made in {made.seconds:.0f} s")
        print(f"load of this machine before: {os.getloadavg()[0]:.1f}, of {os.cpu_count()} processors")
        measure(sides, folder, options.rounds)


def measure(sides: dict[str, Path], folder: Path, rounds: int) -> None:
    print(f"{'':40}" + "".join(f"{side:>8}: s  CPU s  MB peak  MB out" for side in sides))
    every = commands(folder / "ours")
    for name, arguments in [*every.items(), ("opening, and a sweep's first claim", [])]:
        runs: dict[str, list[Cost]] = {side: [] for side in sides}
        for turn in range(rounds):
            for side, checkout in list(sides.items())[:: 1 if turn % 2 else -1]:
                python = [str(checkout / ".venv/bin/python"), "-c", START]
                runs[side].append(cost([*foundry(checkout), *arguments] if arguments else python, folder / side))
        shown = "".join(map(_words, runs.values()))
        print(f"{name:40}{shown}", flush=True)
    for side in sides:
        page = (folder / side / "page.html").read_bytes()
        print(f"{side}: the report's page has {len(page) / 1e6:.1f} MB and {page.count(b'<tr'):,} rows")


def _words(got: Sequence[Cost]) -> str:
    seconds, cpu = min(each.seconds for each in got), min(each.cpu for each in got)
    return f"{seconds:11.2f}{cpu:7.2f}{max(each.peak for each in got) / 1e6:9.0f}{got[0].written / 1e6:8.1f}"


if __name__ == "__main__":
    main()
