"""Seconds until a command answers, and until the first optimizer step. Bytecode is cached by a first, uncounted call.

uv run python benchmarks/startup.py [--runs 9]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [["--help"], ["mutate", "attention", "mha", "--dry-run"], ["mutate", "--list"], ["plugins", "list"]]


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def first_step() -> float:
    """From the command to the first line of metrics."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "foundry.cli", "train", "--out", f"{folder}/run",
            "--set", "logging.log_interval=1", "--set", "training.max_iters=1000",
        ]  # fmt: skip
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if "train_loss=" in line:
                break
        took = time.perf_counter() - began
        process.kill()
        process.wait()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    foundry = str(Path(sys.executable).with_name("foundry"))
    for command in COMMANDS:
        seconds([foundry, *command])
        times = sorted(seconds([foundry, *command]) for _ in range(args.runs))
        name = "foundry " + " ".join(command)
        print(f"{name:40s} {statistics.median(times):6.3f} s  (min {times[0]:.3f}, max {times[-1]:.3f})", flush=True)
    first_step()
    times = sorted(first_step() for _ in range(max(3, args.runs // 3)))
    name = "foundry train: first optimizer step"
    print(f"{name:40s} {statistics.median(times):6.3f} s  (min {times[0]:.3f}, max {times[-1]:.3f})")


if __name__ == "__main__":
    main()
