"""The linear layer of every variant, and its product. How x W^T + b is computed is chosen here and nowhere else."""

import torch.nn.functional as F
from torch import Tensor, nn

from foundry.kernels import few_rows


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b. x (..., K), weight (N, K), bias (N,) or None -> (..., N)."""
    if few_rows.fits_linear(x, weight, bias):
        return few_rows.linear(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`torch.nn.Linear`, by `linear`: x (..., in_features) -> (..., out_features). Its parameters are `weight`
    (out_features, in_features) and `bias` (out_features,) or None."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
