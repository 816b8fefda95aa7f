"""Trials by warm workers against one `foundry train` process for each, with as many at a time.

uv run python benchmarks/sweep.py --seconds 10 --trials 16      # wanted: 1.4 x
uv run python benchmarks/sweep.py --seconds 180 --trials 4      # wanted: at most 3 % slower

A trial of 10 s is one for which `foundry train` takes 10 s from its start to its end, with --jobs of them at a time;
what fits is found first. Both sides train the same experiments, the sweep as `foundry ablate` (everything is trained,
nothing is decided), its own start and the workers' included. They take turns, in an order that changes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FOUNDRY = [sys.executable, "-m", "foundry.cli"]


def new_project(folder: Path, steps: int, threads: int) -> Path:
    """A project with the repository's baseline, for so many steps, without samples and with one evaluation."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "experiments").mkdir(parents=True)
    experiment = yaml.safe_load((ROOT / "experiments" / "baseline.yaml").read_text())
    experiment["training"] |= {"max_iters": steps, "eval_interval": 0, "eval_tokens": 16384, "threads": threads}
    experiment |= {"logging": {"sample_tokens": 0}, "checkpoints": {"save_interval": 0}}
    (folder / "experiments" / "baseline.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
    return folder


def run(project: Path, *arguments: str) -> None:
    done = subprocess.run([*FOUNDRY, *arguments], cwd=project, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"foundry {' '.join(arguments)}\n{done.stderr}")


def by_processes(project: Path, rates: list[str], jobs: int) -> float:
    """Seconds until every rate is trained, each by a process of its own."""
    began = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda rate: run(project, "train", "--set", f"training.learning_rate={rate}"), rates))
    return time.perf_counter() - began


def by_sweep(project: Path, rates: list[str], jobs: int) -> float:
    """Seconds of one `foundry ablate` over the same rates; the first is the baseline's own."""
    began = time.perf_counter()
    run(project, "ablate", "--axis", f"lr={','.join(rates[1:])}", "--seeds", "1", "--jobs", str(jobs))
    return time.perf_counter() - began


def steps_for(seconds: float, folder: Path, jobs: int, threads: int) -> tuple[int, float]:
    """(steps for which `foundry train` takes `seconds`, seconds that it takes beside its steps)."""
    for steps in (1, 200):  # the first run prepares the corpus
        project = new_project(folder, steps, threads)
        wall = by_processes(project, learning_rates(jobs), jobs)
    results = [json.loads(file.read_text()) for file in project.glob("runs/*/result.json")]
    stepping = statistics.mean(result["training_seconds"] for result in results)
    return max(1, round((seconds - (wall - stepping)) / (stepping / steps))), wall - stepping


def learning_rates(count: int) -> list[str]:
    return [f"{3e-3 + 1e-5 * number:.6f}" for number in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="that one `foundry train` takes")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    parser.add_argument("--steps", type=int, help="of a trial, instead of finding those that take --seconds")
    parser.add_argument("--blocks", type=int, default=3, help="turns of each side")
    args = parser.parse_args()
    threads = max(1, len(os.sched_getaffinity(0)) // args.jobs)
    sides = {"processes": by_processes, "sweep": by_sweep}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FOUNDRY_CACHE"] = f"{folder}/cache"
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if args.steps:
            steps = args.steps
            by_processes(new_project(Path(folder, "project"), 1, threads), learning_rates(1), 1)  # prepares the corpus
        else:
            steps, beside = steps_for(args.seconds, Path(folder, "project"), args.jobs, threads)
            print(f"one process takes {args.seconds:g} s, {beside:.1f} s of it beside its steps")
        print(f"{args.trials} trials of {steps} steps, {args.jobs} at a time", flush=True)
        rates, order = learning_rates(args.trials), random.Random(0)
        for block in range(args.blocks):
            for name in order.sample(list(sides), len(sides)):
                project = new_project(Path(folder, "project"), steps, threads)
                seconds[name].append(sides[name](project, rates, args.jobs))
                print(f"  block {block + 1} {name:10s} {seconds[name][-1]:7.1f} s", flush=True)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(f"{name:10s} {medians[name]:7.1f} s  (min {min(times):.1f}, max {max(times):.1f})")
    ratios = [slow / fast for slow, fast in zip(seconds["processes"], seconds["sweep"], strict=True)]
    print(f"the sweep is {medians['processes'] / medians['sweep']:.2f} x as fast "
          f"(by block: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")  # fmt: skip


if __name__ == "__main__":
    main()
