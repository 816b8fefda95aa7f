"""Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) for the hidden matrices, AdamW for the rest.

    M <- momentum M + (1 - momentum) G,   U = NewtonSchulz(M) (an approximation of (M M^T)^(-1/2) M),
    W <- W - lr (weight_decay W + sqrt(max(1, rows / columns)) U)

A hidden matrix is a parameter of the role `matrix` inside the model's stack of layers (an nn.ModuleList): the weight of
an nn.Linear, or each matrix of a stack, such as experts'. Not an embedding, a head, a router, a position, a norm or a
bias, whose updates should not be orthogonal.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn

from foundry.core.contracts import InvalidExperiment, lr_factors, roles
from foundry.modules.optimizer import MuonParams
from foundry.modules.optimizer.adamw import adamw_of
from foundry.modules.optimizer.batched_muon import BatchedMuon


def muon(params: MuonParams, model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    matrices = hidden_matrices(model)
    if not matrices:
        raise InvalidExperiment("muon finds no hidden matrices in this model", "train it with optimizer adamw")
    chosen = {id(matrix) for matrix in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    factors = lr_factors(model, "orthogonal")
    groups: dict[float, list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        groups[factors[matrix]].append(matrix)
    of_matrices = BatchedMuon(
        [
            {"params": group, "lr": params.learning_rate * factor, "weight_decay": params.weight_decay / factor}
            for factor, group in groups.items()
        ],
        momentum=params.momentum,
        nesterov=params.nesterov,
        ns_steps=params.ns_steps,
    )
    return [of_matrices, *adamw_of(rest, params, model, learning_rate)]


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """In the model's order, each once: stacks may nest, and layers share weights."""
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    stacked = {id(parameter) for stack in stacks for parameter in stack.parameters()}
    return [
        parameter
        for parameter, role in roles(model).items()
        if role == "matrix" and id(parameter) in stacked and parameter.requires_grad
    ]
