"""Next-token cross-entropy, in nats, with the z-loss of PaLM (arXiv:2204.02311, section 5) where asked.

    sum_n w_n (log sum_v exp(z_nv) - z_n,target)          + aux z_loss = c sum_t w_t (log sum_v exp z_tv)^2 / sum_t w_t

hidden (B, T, C), targets (B, T), loss_weight w (B, T) or None = 1; n are all tokens, t those of a row, z_loss is (B,).

With chunk_tokens, the logits are made a chunk at a time where the head is a matrix product and nothing more: where its
`softcap` is None. Any other head makes them all at once.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts import Aux, Batch, Dims
from foundry.kernels import linear_cross_entropy
from foundry.modules.loss import CrossEntropyParams


class CrossEntropy(nn.Module):
    def __init__(self, params: CrossEntropyParams, dims: Dims) -> None:
        super().__init__()
        self.z_loss, self.chunk_tokens = params.z_loss, params.chunk_tokens

    def forward(self, hidden: Tensor, head: Any, batch: Batch) -> tuple[Tensor, Tensor, Aux]:
        hidden, targets = hidden.flatten(0, -2), batch.targets.flatten()
        weight = None if batch.loss_weight is None else batch.loss_weight.flatten()
        count = targets.new_full((), targets.numel()) if weight is None else weight.sum()
        if self.chunk_tokens is not None and getattr(head, "softcap", 0.0) is None:
            return linear_cross_entropy(hidden, head.weight, targets, weight, chunk=self.chunk_tokens), count, {}
        logits = head(hidden).float()
        if weight is None:
            total = F.cross_entropy(logits, targets, reduction="sum")
        else:
            total = (F.cross_entropy(logits, targets, reduction="none") * weight).sum()
        if not self.z_loss:
            return total, count, {}
        square = logits.logsumexp(dim=-1).square().view_as(batch.targets)
        if weight is None:
            return total, count, {"z_loss": self.z_loss * square.mean(-1)}
        of_rows = batch.loss_weight.sum(-1)
        mean = (square * batch.loss_weight).sum(-1) / of_rows.where(of_rows > 0, 1)  # nothing of a row may count
        return total, count, {"z_loss": self.z_loss * mean}
