"""What a ledger of many trials costs: every command that reads it, the report's page, and the start of a sweep, which
an empty ledger is shown for, too: most of that is the import of torch.

uv run python benchmarks/ledger_size.py                            # wanted: < 2 s each, a page of <= 5 MB
uv run python benchmarks/ledger_size.py --peer CHECKOUT            # and the code of another checkout beside ours
uv run python benchmarks/ledger_size.py --project DIR --keep DIR   # the ledger to clone, where the large one stays

A small real sweep is cloned, event by event, until there are so many trials: with other ids, other arms and later
times. Every side gets the same events.jsonl, makes its own database of it, and runs the same commands, each a process
of its own; the two sides take turns. Seconds are the least of --rounds, memory the most. On a busy machine read the
processor's seconds, which are those that the process had the processor for. The small sweep takes a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from sweep import new_project

ROOT = Path(__file__).resolve().parents[1]
KINDS_OF_PROJECT = ("ledger_created", "baseline_set", "baseline_rendered", "noise_measured")
"""Events that stay as they are, once."""
IDS = re.compile(r'"([0-9a-f]{12,64})"')
CONTROL = "baseline"
SMALL = {"n_layer": 1, "n_embd": 32, "n_head": 2, "block_size": 32, "attention": {"type": "gqa", "n_kv_head": 1}}
"""A model whose trials take a second: the ledger's rows are as long as those of a larger one."""
STEPS = 30  # of a trial, each a point of its curve
WAIT_SECONDS = 600.0

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
    project = new_project(folder, STEPS, 1)
    file = project / "experiments" / "baseline.yaml"
    experiment = yaml.safe_load(file.read_text())
    experiment["model_args"] |= SMALL
    experiment["training"] |= {"batch_size": 4, "eval_tokens": 2048}
    file.write_text(yaml.safe_dump(experiment, sort_keys=False))
    command = [*foundry(ROOT), "sweep", "activation", "relu2", "geglu", "gelu", "--jobs", "2", "--max-pairs", "4"]
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


def until_claim(checkout: Path, project: Path, steps: int) -> float:
    """Seconds from the start of a new sweep's command until a worker has its first trial. Then it is stopped."""
    journal = project / ".foundry" / "events.jsonl"
    before, began = _last_claim(journal), time.perf_counter()
    command = [*foundry(checkout), "sweep", "activation", "relu2", "geglu", "--budget", f"{steps} steps"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            while time.perf_counter() < began + WAIT_SECONDS and process.poll() is None:
                if _last_claim(journal) != before:
                    return time.perf_counter() - began
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate()
    raise SystemExit(f"{' '.join(command)}\nhas claimed no trial\n{said.decode()}")


def _last_claim(journal: Path) -> bytes:
    """The event of the last claim, as far as the journal's end tells. Not its time: a cloned ledger's are to come."""
    if not journal.exists():
        return b""
    with open(journal, "rb") as file:
        file.seek(max(0, journal.stat().st_size - 65536))
        return b"".join(re.findall(rb'"seq": (\d+), "time": [\d.]+, "kind": "trial_claimed"', file.read())[-1:])


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
            shutil.rmtree(folder / f"{side}-empty", ignore_errors=True)
            shutil.copytree(small / "experiments", folder / f"{side}-empty" / "experiments")
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
    for name, arguments in [*every.items(), ("sweep --dry-run, empty ledger", every["sweep --dry-run"]),
                            ("opening, and a sweep's first claim", [])]:  # fmt: skip
        runs: dict[str, list[Cost]] = {side: [] for side in sides}
        for turn in range(rounds):
            for side, checkout in _in_turns(sides, turn):
                python = [str(checkout / ".venv/bin/python"), "-c", START]
                project = folder / (f"{side}-empty" if "empty" in name else side)
                runs[side].append(cost([*foundry(checkout), *arguments] if arguments else python, project))
        shown = "".join(map(_words, runs.values()))
        print(f"{name:40}{shown}", flush=True)
    for suffix in ("", "-empty"):
        waits: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(rounds):
            for side, checkout in _in_turns(sides, turn):
                waits[side].append(until_claim(checkout, folder / f"{side}{suffix}", STEPS + 1 + turn))
        shown = "".join(f"{min(each):11.2f}{'':24}" for each in waits.values())
        print(f"{'a new sweep until its first trial' + suffix.replace('-', ', '):40}{shown}", flush=True)
    for side in sides:
        page = (folder / side / "page.html").read_bytes()
        print(f"{side}: the report's page has {len(page) / 1e6:.1f} MB and {page.count(b'<tr'):,} rows")


def _in_turns(sides: dict[str, Path], turn: int) -> list[tuple[str, Path]]:
    return list(sides.items())[:: 1 if turn % 2 else -1]


def _words(got: Sequence[Cost]) -> str:
    seconds, cpu = min(each.seconds for each in got), min(each.cpu for each in got)
    return f"{seconds:11.2f}{cpu:7.2f}{max(each.peak for each in got) / 1e6:9.0f}{got[0].written / 1e6:8.1f}"


if __name__ == "__main__":
    main()
