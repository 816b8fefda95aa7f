"""Adam for large tables of which each step uses a few rows: the arithmetic of torch.optim.SparseAdam.

    for the rows that the gradient g has:   m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
                                            p <- p - lr sqrt(1 - beta2^t) / (1 - beta1^t)  m / (sqrt(v) + eps)

t counts the table's steps. A row that was not used stays as it is, its moments too: nothing decays, and there is no
weight decay. The cost is that of the rows, not of the table. torch's own keeps t as a number, which a checkpoint of
tensors would bring back as a tensor of other precision; here it is one from the start, so that a resume is bit-exact.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from foundry.modules.optimizer.eager import eager


@eager
class RowSparseAdam(torch.optim.Optimizer):
    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, table.grad.coalesce(), group)
        return loss

    def _update(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        (beta1, beta2), state = group["betas"], self.state[table]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        steps = int(state["step"])
        rows, values = gradient.indices()[0], gradient.values()
        mean = state["exp_avg"][rows].lerp_(values, 1 - beta1)
        mean_square = state["exp_avg_sq"][rows].lerp_(values.square(), 1 - beta2)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, mean_square)
        step_size = group["lr"] * sqrt(1 - beta2**steps) / (1 - beta1**steps)
        table.index_add_(0, rows, mean / mean_square.sqrt_().add_(group["eps"]), alpha=-step_size)


def row_sparse_tables(model: nn.Module) -> list[Tensor]:
    """Those that say so, as torch's embeddings do, in the model's order."""
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding) and module.sparse]
    return [table for table in dict.fromkeys(tables) if table.requires_grad]
