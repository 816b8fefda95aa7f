"""Time and peak memory of windowed and of block-strided attention against full causal attention, forward and backward.

    uv run python benchmarks/sparse_attention.py [--lengths 2048 4096] [--windows 8] [--blocks 10]

A row is `--windows` windows long. `masked` is the window as a T x T mask for torch's attention, which is what short
rows are given elsewhere, but not here; `sparse` sees every eighth block of 64 tokens besides the window. Queries, keys
and values are (1, 8, T, 64) in fp32. `native` computes by the C kernel, `torch` without; `packed` rows hold eight
documents, which full attention tells apart by a T x T mask. Each contender is a process of its own, and they take
turns; a block is one forward and one backward pass. Memory is the peak of the process above what it held before the
pass, the result and the three gradients included. Ratios are to full attention of the same kind.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from pathlib import Path

from interleave import Contender, announce, median_interval, take_turns, wait_for_turn

KINDS = ("native", "torch", "native packed", "torch packed")
PATTERNS = ("full", "masked", "window", "sparse")
DOCUMENTS = 8


def contend(kind: str, pattern_name: str, length: int, window: int) -> None:
    """One contender's process."""
    import torch

    from foundry.core.contracts import Context
    from foundry.core.kernels import native_kernels
    from foundry.kernels import SparsePattern

    native = native_kernels()
    from foundry.modules.attention.attend import attend, visible

    SparsePattern.suits_chunks = lambda *_: True
    native.use(["attention"] if kind.startswith("native") else [])
    pattern = {"full": None, "sparse": SparsePattern(window, 64, 8)}.get(pattern_name, SparsePattern(window))
    context = Context()
    if kind.endswith("packed"):
        token = torch.arange(length)[None]
        size = length // DOCUMENTS
        context = Context(positions=token % size, segments=token // size)
    q, k, v = (torch.randn(1, length, 8, 64).transpose(1, 2).requires_grad_() for _ in range(3))
    upstream = torch.randn(1, length, 8, 64).transpose(1, 2)

    def forward() -> torch.Tensor:
        if pattern_name == "masked":
            every = torch.arange(length)
            mask = visible(context, every, every, length, pattern)
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
        return attend(q, k, v, context, pattern=pattern)

    def step() -> None:
        torch.autograd.grad(forward(), (q, k, v), upstream)

    step()
    announce("ready")
    while True:
        wait_for_turn()
        before = reset_peak()
        began = time.perf_counter()
        step()
        seconds = time.perf_counter() - began
        announce("memory", status("VmHWM") - before)
        announce("block", seconds)


def reset_peak() -> int:
    """Forget the process's peak of resident memory; what it holds now, in bytes (Linux with glibc only)."""
    ctypes.CDLL(None).malloc_trim(0)  # else what was freed before counts as held, and hides as much of the peak
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--windows", type=int, default=8, help="in a row")
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--contend", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contend:
        contend(*given.contend[:2], *map(int, given.contend[2:]))
    print("| T | kind | attention | ms | time, of full | MiB | memory, of full |\n|---|---|---|---|---|---|---|")
    for length in given.lengths:
        for kind in given.kinds:
            command, sizes = [sys.executable, __file__, "--contend", kind], [str(length), str(length // given.windows)]
            contenders = [Contender(name, [*command, name, *sizes]) for name in PATTERNS]
            take_turns(contenders, given.blocks)
            for contender in contenders:
                contender.close()
            report(length, kind, contenders)


def report(length: int, kind: str, contenders: list[Contender]) -> None:
    full = contenders[0]
    for contender in contenders:
        seconds, memory = contender.seconds, max(contender.notes["memory"])
        ratios = [mine / whole for mine, whole in zip(seconds, full.seconds, strict=True)]
        ratio, low, high = median_interval(ratios)
        share = memory / max(full.notes["memory"])
        print(
            f"| {length} | {kind} | {contender.name} | {1000 * median_interval(seconds)[0]:.1f} "
            f"| {ratio:.2f} [{low:.2f}, {high:.2f}] | {memory / 2**20:.1f} | {share:.2f} |"
        )


if __name__ == "__main__":
    main()
