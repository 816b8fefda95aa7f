"""Plain texts of activations, see `foundry.core.contracts.plain_text`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from foundry.core.contracts.plain_text import settings


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.gelu(gate, approximate=settings.approximate) * up


def glu(gate: Tensor, up: Tensor) -> Tensor:
    return torch.sigmoid(gate) * up


def gelu(up: Tensor) -> Tensor:
    return F.gelu(up, approximate=settings.approximate)


def relu2(up: Tensor) -> Tensor:
    return F.relu(up).square()


def relu(up: Tensor) -> Tensor:
    return F.relu(up)


def silu(up: Tensor) -> Tensor:
    return F.silu(up)
