"""Two commits of Foundry side by side: how fast the second one is beside the first, with an interval.

    uv run python benchmarks/commits.py OLD NEW --text input.txt [--only train,generate] [--blocks 20]

OLD and NEW are checkouts, each with an environment of its own in .venv (`git worktree add`, then `uv sync`). What is
timed is what the benchmarks of that name time, by the code of each checkout, and the two take turns block by block.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from interleave import Contender, announce, median_interval, take_turns, wait_for_turn

HERE = Path(__file__).resolve()
BLOCKS = {
    "train": 40, "generate 1": 40, "generate 8": 40, "help": 21, "list": 21, "first step": 9, "ledger": 21, "sweep": 5,
}  # fmt: skip
SWEEP_STEPS, SWEEP_TRIALS, JOBS = 10, 4, 2  # a minute, most of it the trainings
CLAIMS, CLAIMANTS = 400, 8


def command(python: str, checkout: Path, what: str, text: str) -> list[str]:
    """What runs `what` of a checkout, a block for each line that it is sent."""
    if what == "train":
        return [python, str(checkout / "benchmarks/train_throughput.py"), "--worker", "trainer", "--text", text]
    if what.startswith("generate"):
        script = str(checkout / "benchmarks/generate.py")
        return [python, script, "--worker", "foundry", "--sizes", "1m", "--batch", what.split()[1]]
    return [python, str(HERE), str(checkout), str(checkout), "--worker", what]


def worker(checkout: Path, what: str) -> None:
    """A contender whose block is one call: of a command, of a race for the ledger, of a sweep."""
    sys.path.insert(0, str(checkout / "benchmarks"))
    with tempfile.TemporaryDirectory() as folder:
        block = {"help": startup, "list": startup, "first step": startup, "ledger": ledger, "sweep": sweep}[what]
        run = block(what, Path(folder))
        run()  # caches what is cached: bytecode, the corpus
        announce("ready")
        while True:
            wait_for_turn()
            announce("block", run())


def startup(what: str, folder: Path) -> Callable[[], float]:
    from startup import first_step, seconds

    if what == "first step":
        return first_step
    arguments = {"help": ["--help"], "list": ["mutate", "--list"]}[what]
    return lambda: seconds([sys.executable, "-m", "foundry.cli", *arguments])


def ledger(what: str, folder: Path) -> Callable[[], float]:
    from ledger import race

    def seconds() -> float:
        """By the rate that it prints, which leaves out what it prepares."""
        with contextlib.redirect_stdout(io.StringIO()) as told:
            race(folder, CLAIMANTS, CLAIMS, finish=True)
        return CLAIMS / float(told.getvalue().split("processes:")[1].split()[0])

    return seconds


def sweep(what: str, folder: Path) -> Callable[[], float]:
    from sweep import by_sweep, learning_rates, new_project

    os.environ["FOUNDRY_CACHE"] = f"{folder}/cache"
    rates = learning_rates(SWEEP_TRIALS)
    return lambda: by_sweep(new_project(folder / "project", SWEEP_STEPS, 1), rates, JOBS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a checkout with its environment in .venv")
    parser.add_argument("new", type=Path, help="another one")
    parser.add_argument("--text", help="a text file, for train")
    parser.add_argument("--only", help=f"of {', '.join(BLOCKS)}")
    parser.add_argument("--blocks", type=int, help="turns of each, instead of each one's own number")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.old, args.worker)
    for what in args.only.split(",") if args.only else BLOCKS:
        if what == "train" and not args.text:
            parser.error("train needs --text")
        contenders = []
        for name, checkout in (("old", args.old.resolve()), ("new", args.new.resolve())):
            python, text = str(checkout / ".venv/bin/python"), os.path.abspath(args.text or "")
            begun = command(python, checkout, what, text)
            contenders.append(Contender(name, begun, cwd=str(checkout), env={"OMP_NUM_THREADS": "1"}))
        began = time.perf_counter()
        take_turns(contenders, args.blocks or BLOCKS[what])
        for contender in contenders:
            contender.close()
        old, new = contenders
        middle, low, high = median_interval([a / b for a, b in zip(old.seconds, new.seconds, strict=True)])
        print(
            f"{what:12s} new / old: {middle:.3f} x as fast  (95 % interval {low:.3f} to {high:.3f}; "
            f"{len(new.seconds)} blocks, {time.perf_counter() - began:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
