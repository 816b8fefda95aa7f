"""Whether the experts of routed layers are used, and how evenly: what a run says of it in its metrics.

    expert_usage         share of the experts that were chosen at all, mean over layers: 1 at best
    expert_unevenness    log E + sum_i s_i log s_i in nats, mean over layers, where s_i is the share of all choices that
                         fell on expert i: the divergence from even use, 0 at best
    expert_largest_load  choices of the busiest expert of any layer over the mean of its layer: 1 at best, and E / top_k
                         where all tokens want the same

The first two are those of the PEER paper (He, 2024, arXiv:2407.04153). All are of the choices of every rank since the
last row that has them: every log_interval steps, and where the run is evaluated or saved. n choices reach no more than
n experts: with a million of them, `expert_usage` says something only over many steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from foundry.core.run import EXPERT_FIELDS
from foundry.core.training.distributed import World


class ExpertLoad:
    """How often each expert was chosen on this rank since it was last asked, for each routed layer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.loads: dict[str, Tensor] = {}

    def add(self, loads: Mapping[str, Tensor]) -> None:
        """Take over the loads of an optimizer step, (E,) integers each."""
        for name, load in loads.items():
            if name in self.loads:
                self.loads[name] += load
            else:
                self.loads[name] = load.to(torch.int64, copy=True)

    def read(self) -> dict[str, float]:
        """The figures since the last call; nothing where no layer has experts. Every rank must call it."""
        loads, self.loads = self.world.sum_tensors(self.loads), {}
        if not loads:
            return {}
        return dict(zip(EXPERT_FIELDS, _evenness([*loads.values()]), strict=True))


def _evenness(loads: Sequence[Tensor]) -> list[float]:
    shares = [load / load.sum().clamp_min(1) for load in loads]
    usage = torch.stack([(share > 0).float().mean() for share in shares]).mean()
    unevenness = torch.stack([math.log(len(share)) - torch.special.entr(share).sum() for share in shares]).mean()
    largest = torch.stack([share.max() * len(share) for share in shares]).max()
    figures: list[float] = torch.stack([usage, unevenness.clamp_min(0), largest]).tolist()
    return figures
