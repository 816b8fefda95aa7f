"""What the layers and the loss report of one optimizer step beside their results, see `contracts.Aux`."""

from __future__ import annotations

from torch import Tensor

from foundry.core.contracts import Aux


class AuxTotals:
    """Sums over the step's micro-batches, on this rank and its device.

    A forward pass that runs out of memory is done again, so nothing that outlives the step is changed before its end.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was reported: a step begins, or begins again."""
        self.counts: dict[str, Tensor] = {}  # what ends in _count
        self.loads: dict[str, Tensor] = {}  # what ends in _load
        self.figures: dict[str, Tensor] = {}  # the rest: this rank's shares of means over the step's tokens

    def add(self, aux: Aux, n_tokens: float) -> None:
        """Take over what the objective reports of one micro-batch; the step has `n_tokens`, of all ranks."""
        for name, value in aux.items():
            value = value.detach()
            if name.endswith("_count"):
                _add(self.counts, name, value)
            elif name.endswith("_load"):
                _add(self.loads, name, value)
            else:
                _add(self.figures, name, value.float() / n_tokens)


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value
