"""AdamW (Loshchilov and Hutter, 2017, arXiv:1711.05101), torch's fused kernel where the device has one.

    m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
    p <- p - lr (weight_decay p + m' / (sqrt(v') + eps)),          m', v' corrected for their start at 0

Gains and biases, of any shape, do not decay: they have no scale to lose.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

from foundry.core.contracts import DECAYING, lr_factors, roles
from foundry.modules.optimizer import AdamWParams
from foundry.modules.optimizer.eager import AdamW
from foundry.modules.optimizer.row_sparse_adam import RowSparseAdam, row_sparse_tables

FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def adamw(params: AdamWParams, model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return adamw_of(parameters, params, model, learning_rate)


def adamw_of(
    parameters: Iterable[nn.Parameter], params: AdamWParams, model: nn.Module, learning_rate: float
) -> list[torch.optim.Optimizer]:
    """AdamW over these parameters of `model`, in groups of one decay and one factor on the learning rate; of tables
    with row-sparse gradients, RowSparseAdam."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    tables: dict[float, list[nn.Parameter]] = defaultdict(list)
    factors, role = lr_factors(model, "elementwise"), roles(model)
    row_sparse = {id(table) for table in row_sparse_tables(model)}
    for parameter in parameters:
        decay = params.weight_decay if role[parameter] in DECAYING else 0.0
        group = tables[factors[parameter]] if id(parameter) in row_sparse else groups[decay, factors[parameter]]
        group.append(parameter)
    betas = (params.beta1, params.beta2)
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(_dense(groups, learning_rate, betas, params.eps))
    if tables:
        rates = [{"params": group, "lr": learning_rate * factor} for factor, group in tables.items()]
        optimizers.append(RowSparseAdam(rates, learning_rate, betas, params.eps))
    return optimizers


def _dense(
    groups: dict[tuple[float, float], list[nn.Parameter]],
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
) -> AdamW:
    fused = all(parameter.device.type in FUSED_DEVICES for group in groups.values() for parameter in group)
    return AdamW(
        # What decays in a step is lr * weight_decay; the factor is on what the gradient moves.
        [
            {"params": group, "lr": learning_rate * factor, "weight_decay": decay / factor}
            for (decay, factor), group in groups.items()
        ],
        lr=learning_rate,
        betas=betas,
        eps=eps,
        fused=fused,
    )
