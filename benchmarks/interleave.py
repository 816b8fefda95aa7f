"""Timing contenders fairly: each lives in a process of its own, and they take turns, block by block.

A contender prints `ready` once it is warm; then for each line on its standard input it runs one block and prints the
block's seconds. Machines drift; turns a few seconds apart drift together.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence


class Contender:
    """A subprocess that runs one block at a time."""

    def __init__(self, name: str, command: Sequence[str], *, cwd: str | None = None, env: dict | None = None) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.notes: dict[str, list[float]] = {}  # other figures that it announces, by name
        self.process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **(env or {})}, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._expect("ready")

    def block(self) -> None:
        self.process.stdin.write("go\n")
        self.seconds.append(float(self._expect("block")))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _expect(self, word: str) -> str:
        for line in self.process.stdout:
            if line.startswith(f"@{word}"):
                return line.split()[-1]
            if line.startswith("@"):
                name, value = line[1:].split()
                self.notes.setdefault(name, []).append(float(value))
        raise SystemExit(f"{self.name} ended early; run it by hand: {' '.join(self.process.args)}")


def take_turns(contenders: Sequence[Contender], blocks: int) -> None:
    """Run `blocks` rounds, each contender once per round, in a new random order."""
    order = random.Random(0)
    for round_number in range(blocks):
        for contender in order.sample(list(contenders), len(contenders)):
            contender.block()
        print(f"\r  block {round_number + 1}/{blocks}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def announce(word: str, value: float | str = "") -> None:
    """A contender's side of the protocol, past whatever else it prints."""
    print(f"@{word} {value}", flush=True)


def wait_for_turn() -> None:
    if not sys.stdin.readline():
        raise SystemExit(0)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Median and its bootstrap interval."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(4000))
    tail = (1 - confidence) / 2
    return statistics.median(values), medians[int(tail * 4000)], medians[int((1 - tail) * 4000) - 1]
