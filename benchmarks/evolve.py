"""The long loop in a world whose truth is known: what it gains, and how often it makes its baseline worse, beside the
loops that people run. No training: the search and the sequential test are the real ones, the runs are random numbers.

OMP_NUM_THREADS=1 uv run python benchmarks/evolve.py [--loops 1000] [--jobs 2] [--policies]

Effects are on the loss: an idea's is a draw from N(mean, 0.01), so with mean +0.01 one idea in 6 helps, with +0.02 one
in 44. A loop has 1,000 runs and 8 ideas a round. `change` is what happened to the true loss of the baseline, < 0 =
better; a verified promotion is harmful if the whole stack made it worse.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from random import Random

from foundry.lab.search.policy import Policy
from foundry.lab.search.simulate import Ended, GaussianIdeas, greedy, ours, ratchet

WORLDS = {
    "easy: +0.01, sigma 0.005": GaussianIdeas(mean=0.01),
    "hard: +0.02, sigma 0.005": GaussianIdeas(mean=0.02),
    "hard: +0.02, sigma 0.010": GaussianIdeas(mean=0.02, sigma=0.01),
}
OURS = "provisional + audits"
LOOPS: dict[str, Callable[[GaussianIdeas, Random], Ended]] = {
    "greedy": greedy,
    "ratchet": ratchet,
    "strict": partial(ours, policy=Policy.strict()),
    OURS: ours,
}
POLICIES: dict[str, Callable[[GaussianIdeas, Random], Ended]] = {
    "margin 0": partial(ours, policy=Policy(margin=0.0)),
    "margin 1 sigma": partial(ours, policy=Policy(margin=1.0)),
    "stacks of 4 at most": partial(ours, policy=Policy(largest_stack=4)),
    "stacks of 16 at most": partial(ours, policy=Policy(largest_stack=16)),
    "first stack of 1": partial(ours, policy=Policy(first_stack=1)),
}
"""Ours with one thing changed."""
CLAIM = 0.8, 0.1
"""Of greedy's gain in the easy world, at least; harmful promotions per loop in any world, at most."""


def play(world: str, loop: str, seed: int) -> Ended:
    return (LOOPS | POLICIES)[loop](WORLDS[world], Random(seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--policies", action="store_true", help="other policies of ours, too")
    args = parser.parse_args()
    began = time.perf_counter()
    changes: dict[tuple[str, str], float] = {}
    harmful: dict[tuple[str, str], float] = {}
    print(f"{'':27s}{'change':>18s}{'promotions':>12s}{'harmful':>9s}{'harmful ideas in them':>23s}{'runs':>6s}")
    with ProcessPoolExecutor(args.jobs) as pool:
        for world in WORLDS:
            print(world)
            for loop in (LOOPS | POLICIES) if args.policies else LOOPS:
                n = args.loops
                ended = list(pool.map(play, [world] * n, [loop] * n, range(n), chunksize=20))
                mean = {name: statistics.fmean(getattr(each, name) for each in ended) for name in vars(ended[0])}
                error = statistics.stdev(each.change for each in ended) / n**0.5
                changes[world, loop], harmful[world, loop] = mean["change"], mean["harmful"]
                print(
                    f"  {loop:25s}{mean['change']:+10.4f} +-{error:.4f}{mean['promotions']:12.1f}"
                    f"{mean['harmful']:9.3f}{mean['passengers']:23.1f}{mean['runs']:6.0f}",
                    flush=True,
                )
    easy = next(iter(WORLDS))
    share = changes[easy, OURS] / changes[easy, "greedy"]
    worst = max(harmful[world, OURS] for world in WORLDS)
    print(f"of greedy's gain in the easy world: {share:.3f} (claimed >= {CLAIM[0]})")
    print(f"harmful verified promotions per loop, worst world: {worst:.3f} (claimed <= {CLAIM[1]})")
    print(f"{args.loops} loops each, {time.perf_counter() - began:.0f} s")
    if share < CLAIM[0] or worst > CLAIM[1]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
