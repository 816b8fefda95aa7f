"""From rows to this rank's micro-batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from foundry.core.contracts import Batch, InvalidExperiment, Rows
from foundry.core.training.device import Device
from foundry.core.training.distributed import World
from foundry.core.training.validation import to_device


class Feed:
    """Step by step, the rows r::W of the global batch that begins at a cursor, cut into micro-batches.

    Args:
        batch_size: rows of the global batch.
        micro_batch: rows in one forward pass of one rank, at most; `halve` lowers it.
        undivided: the module that reads all rows of a step at once, so that they are never cut; "" for none.

    Raises:
        InvalidExperiment: `micro_batch` cuts what is not to be cut.
    """

    def __init__(
        self, rows: Rows, world: World, device: Device, batch_size: int, micro_batch: int, *, undivided: str = ""
    ) -> None:
        self.rows, self.world, self.device = rows, world, device
        self.batch_size, self.micro_batch, self.undivided = batch_size, micro_batch, undivided
        if undivided and micro_batch < batch_size // world.size:
            raise InvalidExperiment(
                f"training.micro_batch: {micro_batch} cuts a batch of {batch_size // world.size} rows, "
                f"and {undivided} reads all rows of a step at once",
                "leave micro_batch at auto, or choose a variant that reads each row by itself",
            )

    def tokens(self, batch: Batch) -> int:
        """The supervised tokens of `batch`: its targets with a loss weight."""
        return int(batch.targets.size if batch.loss_weight is None else np.count_nonzero(batch.loss_weight))

    def weight(self, batch: Batch) -> float:
        """What the loss sum of `batch` is to be divided by: its total loss weight."""
        return float(batch.targets.size if batch.loss_weight is None else batch.loss_weight.sum(dtype=np.float64))

    def local(self, cursor: int) -> Batch:
        """This rank's rows of the global batch at `cursor`, on the host."""
        return self.rows.take(np.arange(cursor + self.world.rank, cursor + self.batch_size, self.world.size))

    def micro_batches(self, local: Batch) -> Iterator[tuple[Batch, bool]]:
        """`local` in pieces on the device, and whether a piece is the last."""
        n_rows = len(local.tokens)
        for start in range(0, n_rows, self.micro_batch):
            stop = min(start + self.micro_batch, n_rows)
            piece = Batch(*(None if array is None else array[start:stop] for array in local))
            yield to_device(piece, self.device.torch), stop == n_rows

    def halve(self) -> bool:
        """Use half the rows per forward pass; False if it is one already, or they must stay together."""
        if self.undivided:
            return False
        self.micro_batch, before = max(1, self.micro_batch // 2), self.micro_batch
        return self.micro_batch < before
