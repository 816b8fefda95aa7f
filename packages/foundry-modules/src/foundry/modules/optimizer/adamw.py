"""AdamW (Loshchilov and Hutter, 2017, arXiv:1711.05101), torch's fused kernel where the device has one.

    m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
    p <- p - lr (weight_decay p + m' / (sqrt(v') + eps)),          m', v' corrected for their start at 0

Only parameters with two or more axes decay: norms and biases have no scale to lose.
"""

from collections.abc import Iterable

import torch
from torch import nn

from foundry.modules.optimizer import AdamWParams

FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def adamw(params: AdamWParams, model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [adamw_of(parameters, params, learning_rate)]


def adamw_of(parameters: Iterable[nn.Parameter], params: AdamWParams, learning_rate: float) -> torch.optim.AdamW:
    """AdamW over these parameters, in a group that decays and one that does not."""
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in parameters:
        (decaying if parameter.ndim >= 2 else others).append(parameter)
    groups = [
        {"params": decaying, "weight_decay": params.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in decaying + others)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(params.beta1, params.beta2),
        eps=params.eps,
        fused=fused,
    )
