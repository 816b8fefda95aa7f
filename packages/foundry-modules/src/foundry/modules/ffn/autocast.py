"""Autocast, for what it does not know (grouped products, gathered rows) and what it should leave alone (routers)."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def cast(x: Tensor) -> Tensor:
    """x in the precision that autocast would give a matrix product with it."""
    return x.to(torch.get_autocast_dtype(x.device.type)) if _is_on(x) else x


def left_out(x: Tensor) -> AbstractContextManager[object]:
    """Within it, what is computed with x has the precision of its operands."""
    return torch.autocast(x.device.type, enabled=False) if _is_on(x) else nullcontext()


def _is_on(x: Tensor) -> bool:
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)
