"""What routed feed-forwards are made of, each beside the plain ways to compute it: forward and backward, in ms.

    python benchmarks/routed.py [--rounds 9]

Grouped products (moe) beside a loop over experts and a padded batched product; sparse products (peer) beside gathered
rows. Interleaved, medians, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from foundry.kernels.chosen_rows import add_rows, dot_rows


def measure(ways: Mapping[str, Callable[[], Tensor]], leaves: list[Tensor], rounds: int) -> str:
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for round in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            y = way()
            y.backward(y.detach())
            if round:  # the first warms up
                taken[name].append(1e3 * (time.perf_counter() - began))
            for leaf in leaves:
                leaf.grad = None
    return "  ".join(f"{name} {statistics.median(times):6.1f}" for name, times in taken.items())


def grouped(n_experts: int, top_k: int, width: int, hidden: int, rounds: int) -> str:
    n = 2048 * top_k
    x = torch.randn(n, width, requires_grad=True)
    weight = torch.randn(n_experts, hidden, width, requires_grad=True)
    expert = torch.randint(n_experts, (n,)).sort().values
    counts = torch.bincount(expert, minlength=n_experts)
    ends = counts.cumsum(0)

    def padded() -> Tensor:
        longest = int(counts.max())
        at = expert * longest + torch.arange(n) - (ends - counts)[expert]
        rows = x.new_zeros(n_experts * longest, width).index_copy(0, at, x)
        return torch.bmm(rows.view(n_experts, longest, width), weight.mT).flatten(0, 1)[at]

    ways = {
        "grouped": lambda: F.grouped_mm(x, weight.mT, offs=ends.int()),
        "loop": lambda: torch.cat([p @ w.T for p, w in zip(x.split(counts.tolist()), weight, strict=True)]),
        "padded": padded,
    }
    return measure(ways, [x, weight], rounds)


def retrieved(n_experts: int, chosen: int, width: int, rounds: int) -> str:
    table = torch.randn(n_experts, width, requires_grad=True)
    x, weights = torch.randn(2048, width, requires_grad=True), torch.randn(2048, chosen, 1, requires_grad=True)
    ids = torch.randint(n_experts, (2048, chosen))
    ways = {
        "dot": lambda: dot_rows(x, table, ids),
        "dot, gathered": lambda: torch.bmm(F.embedding(ids, table), x[:, :, None]),
        "add": lambda: add_rows(weights, table, ids),
        "add, gathered": lambda: torch.bmm(weights.mT, F.embedding(ids, table))[:, 0],
    }
    return measure(ways, [x, weights, table], rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for n_experts, top_k, width, hidden in ((8, 2, 512, 768), (8, 2, 128, 176), (64, 8, 128, 48)):
        figures = grouped(n_experts, top_k, width, hidden, rounds)
        print(f"moe   2048 tokens, {top_k} of {n_experts} experts, {width} to {hidden}:  {figures}")
    for n_experts in (16_384, 65_536):
        print(f"peer  2048 tokens, 64 of {n_experts:,} rows of 128:  {retrieved(n_experts, 64, 128, rounds)}")


if __name__ == "__main__":
    main()
