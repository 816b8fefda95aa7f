"""Muon's Newton-Schulz in bf16 and in fp32 on this machine's CPU, one thread: why it is fp32 where bf16 is emulated.

uv run python benchmarks/orthogonalise.py
"""

from __future__ import annotations

import time
from unittest import mock

import torch

from foundry.modules.optimizer import batched_muon

SHAPES = ((4, 128, 128), (4, 128, 512), (12, 384, 384))
ROUNDS = 3


def seconds(matrices: torch.Tensor, dtype: torch.dtype) -> float:
    """The least of ROUNDS, after one that does not count."""
    taken = []
    with mock.patch.object(batched_muon, "precision", return_value=dtype):
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            batched_muon.orthogonalise(matrices, batched_muon.COEFFICIENTS, 5, 1e-7)
            taken.append(time.perf_counter() - began)
    return min(taken[1:])


def main() -> None:
    torch.set_num_threads(1)
    here = batched_muon.precision(torch.device("cpu"))
    print(f"{torch.backends.cpu.get_cpu_capability()}: Foundry computes it in {here}")
    print(f"{'matrices':>16}{'bf16, s':>12}{'fp32, s':>12}{'ratio':>8}")
    for shape in SHAPES:
        matrices = torch.randn(shape)
        bf16, fp32 = (seconds(matrices, dtype) for dtype in (torch.bfloat16, torch.float32))
        print(f"{' x '.join(map(str, shape)):>16}{bf16:12.4f}{fp32:12.4f}{bf16 / fp32:8.1f}")


if __name__ == "__main__":
    main()
