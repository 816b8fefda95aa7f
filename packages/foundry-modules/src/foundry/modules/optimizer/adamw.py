"""AdamW (Loshchilov and Hutter, 2017, arXiv:1711.05101), torch's fused kernel where the device has one.

    m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
    p <- p - lr (weight_decay p + m' / (sqrt(v') + eps)),          m', v' corrected for their start at 0

Only parameters with two or more axes decay: norms and biases have no scale to lose.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

from foundry.core.contracts import lr_factors
from foundry.modules.optimizer import AdamWParams

FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def adamw(params: AdamWParams, model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [adamw_of(parameters, params, model, learning_rate)]


def adamw_of(
    parameters: Iterable[nn.Parameter], params: AdamWParams, model: nn.Module, learning_rate: float
) -> torch.optim.AdamW:
    """AdamW over these parameters of `model`, in groups of one decay and one factor on the learning rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    factors = lr_factors(model, "elementwise")
    for parameter in parameters:
        decay = params.weight_decay if parameter.ndim >= 2 else 0.0
        groups[decay, factors[parameter]].append(parameter)
    fused = all(parameter.device.type in FUSED_DEVICES for group in groups.values() for parameter in group)
    return torch.optim.AdamW(
        # What decays in a step is lr * weight_decay; the factor is on what the gradient moves.
        [
            {"params": group, "lr": learning_rate * factor, "weight_decay": decay / factor}
            for (decay, factor), group in groups.items()
        ],
        lr=learning_rate,
        betas=(params.beta1, params.beta2),
        eps=params.eps,
        fused=fused,
    )
