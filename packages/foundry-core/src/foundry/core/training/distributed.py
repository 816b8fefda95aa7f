"""Several ranks, one run. Ranks come from `foundry train --nproc` or torchrun; FSDP2 and several nodes will join here.

Every rank reads its own rows of the same global batch, r::W, so the rows of a step do not depend on W.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from foundry.core.contracts import InvalidExperiment, PeerFailed


@dataclass(frozen=True)
class World:
    """This process among its peers. `control` is a CPU group for counts and flags, so that they never sync a GPU."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    control: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """The sum over ranks of each value; every rank must call it."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return tensor.tolist()

    def sum_tensors(self, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The sum over ranks of each tensor; every rank names the same, in the same order and sizes."""
        if self.size == 1 or not own:
            return own
        flat = torch.cat([tensor.flatten().double() for tensor in own.values()])  # counts are exact up to 2^53
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in own.values()])
        return {name: part.view_as(own[name]).to(own[name]) for name, part in zip(own, parts, strict=True)}

    def from_main(self, number: int) -> int:
        """Rank 0's number, on every rank."""
        return int(self.sum([number if self.is_main else 0])[0])

    def agree(self, fingerprint: str) -> bool:
        """Whether all ranks hold the same hexadecimal fingerprint."""
        if self.size == 1:
            return True
        mine = torch.tensor(list(bytes.fromhex(fingerprint)), dtype=torch.int32)
        low, high = mine.clone(), mine.clone()
        dist.all_reduce(low, dist.ReduceOp.MIN, group=self.control)
        dist.all_reduce(high, dist.ReduceOp.MAX, group=self.control)
        return bool(torch.equal(low, high))

    def gather_tensors(self, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """All ranks' tensors on rank 0. Each rank names its own `what.RANK`, in the same order and sizes."""
        if self.size == 1:
            return own
        gathered: dict[str, torch.Tensor] = {}
        for name, tensor in own.items():
            parts = [torch.empty_like(tensor) for _ in range(self.size)]
            dist.all_gather(parts, tensor, group=self.control)
            gathered |= {f"{name.rpartition('.')[0]}.{rank}": part for rank, part in enumerate(parts)}
        return gathered

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier(group=self.control)

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` with its gradients averaged over ranks in backward."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        sparse = [name for name, module in model.named_modules() if getattr(module, "sparse", False) is True]
        if sparse and dist.get_backend() == "nccl":
            raise InvalidExperiment(
                f"{sparse[0]} has row-sparse gradients, which several GPUs cannot add up yet",
                "set sparse_gradients: false, or train on one GPU",
            )
        device_ids = [self.local_rank] if next(model.parameters()).is_cuda else None
        wrapped = DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)
        if sparse:
            # A lambda, because torch refuses the postponed annotations of this file.
            wrapped.register_comm_hook(None, lambda group, bucket: _average(group, bucket))
        return wrapped


def _average(group: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DDP's communication hook: the mean over ranks of dense gradients, as without a hook, and of row-sparse ones.

    The rows of all ranks are gathered and added up here. torch's own sum of sparse tensors over gloo corrupts the heap
    now and then when two are under way at once, as DDP has them (seen with torch 2.15).
    """
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    if not bucket.buffer().is_sparse:
        return allreduce_hook(group, bucket)
    own = bucket.buffer().coalesce()
    counts = [int(count) for count in _gather(torch.tensor([own.values().size(0)]))]
    padding = max(counts) - own.values().size(0)
    numbers = _gather(F.pad(own.indices()[0], (0, padding)))
    rows = _gather(F.pad(own.values(), (0, 0, 0, padding)))
    mean = torch.sparse_coo_tensor(
        torch.cat([of_rank[:count] for of_rank, count in zip(numbers, counts, strict=True)])[None],
        torch.cat([of_rank[:count] for of_rank, count in zip(rows, counts, strict=True)]) / len(counts),
        own.shape,
        check_invariants=False,
    ).coalesce()
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(mean)
    return done


def _gather(own: torch.Tensor) -> list[torch.Tensor]:
    """Every rank's tensor, of the same size on each."""
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    return parts


def check_ranks(training: Any, size: int) -> None:
    """Whether this experiment can be trained by `size` ranks.

    Raises:
        InvalidExperiment: `batch_size` cannot be divided among them, or the strategy cannot run here.
    """
    if training.distributed == "fsdp":
        raise InvalidExperiment("training.distributed: fsdp is not built yet", "use ddp, or auto")
    if size > 1 and training.distributed == "none":
        raise InvalidExperiment(f"training.distributed is none, but {size} ranks were requested", "use auto")
    if training.batch_size % size:
        allowed = [n for n in range(1, training.batch_size + 1) if training.batch_size % n == 0]
        raise InvalidExperiment(
            f"training.batch_size {training.batch_size} cannot be divided among {size} ranks",
            f"use {', '.join(map(str, allowed))} ranks, or another batch_size",
        )


@contextmanager
def join(training: Any, *, timeout_seconds: float = 300) -> Iterator[World]:
    """Join the process group that the environment describes; alone, do nothing.

    Raises:
        InvalidExperiment: `batch_size` cannot be divided among the ranks, or the strategy cannot run here.
        PeerFailed: another rank died or does not answer, from anywhere inside the context.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    check_ranks(training, size)
    if size == 1:
        yield World()
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", 0))
    backend = "nccl" if training.device in ("auto", "cuda") and torch.cuda.is_available() else "gloo"
    timeout = timedelta(seconds=timeout_seconds)
    try:
        dist.init_process_group(backend, timeout=timeout)
        control = dist.new_group(backend="gloo", timeout=timeout)
        yield World(rank, size, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", size)), control)
    except (dist.DistBackendError, dist.DistNetworkError, RuntimeError) as error:
        if not _lost_peer(error):
            raise
        raise PeerFailed(f"rank {rank}: lost another rank: {str(error).splitlines()[0]}") from error
    finally:
        # After a peer's death the group cannot be torn down without hanging; the process is about to exit anyway.
        if dist.is_initialized() and not _failing():
            dist.destroy_process_group()


def _lost_peer(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, (dist.DistBackendError, dist.DistNetworkError)) or any(
        sign in text for sign in ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "gloo")
    )


def _failing() -> bool:
    return sys.exc_info()[0] is not None
