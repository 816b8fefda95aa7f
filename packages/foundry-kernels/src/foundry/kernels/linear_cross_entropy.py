"""The cross-entropy of a linear head, without the (N, V) logits.

    loss = sum_n w_n (log sum_v exp(h_n W_v) - h_n W_target(n))
    d loss / d h_n = w_n (p_n - e_target(n)) W,          p_n = softmax(h_n W^T)
    d loss / d W   = sum_n w_n (p_n - e_target(n))^T h_n

The logits of `chunk` tokens live at a time, and the gradients are made while they do, so nothing is computed twice:
the three matrix products of the plain way, N V fewer numbers held. hidden h (N, C), weight W (V, C), targets (N,).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, loss_weight: Tensor | None = None, *, chunk: int = 4096
) -> Tensor:
    """The sum over tokens of the cross-entropy of logits hidden @ weight.T, in nats.

    Args:
        hidden: (N, C), floating.
        weight: (V, C), of the same dtype.
        targets: (N,) int64 in [0, V).
        loss_weight: (N,) or None = 1 each. It gets no gradient.
        chunk: how many tokens' logits are in memory at a time: chunk * V numbers.

    Returns:
        A scalar: fp64 for fp64, otherwise fp32.
    """
    if torch.is_autocast_enabled(hidden.device.type):  # a linear layer's products would be of this dtype
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    needs_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _op(hidden, weight, targets, loss_weight, chunk, needs_gradient)[0]


@custom_op("foundry::linear_cross_entropy", mutates_args=())
def _op(
    hidden: Tensor, weight: Tensor, targets: Tensor, loss_weight: Tensor | None, chunk: int, needs_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    precise = torch.promote_types(hidden.dtype, torch.float32)
    total = hidden.new_zeros((), dtype=precise)
    if not needs_gradient:
        grad_hidden, grad_weight = hidden.new_empty(0), weight.new_empty(0)
    else:
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=precise)
    for start in range(0, hidden.size(0), chunk):
        rows = slice(start, start + chunk)
        logits = (hidden[rows] @ weight.T).to(precise)
        log_probabilities = F.log_softmax(logits, dim=-1)
        losses = -log_probabilities.gather(1, targets[rows, None])[:, 0]
        total += losses.sum() if loss_weight is None else (losses * loss_weight[rows]).sum()
        if needs_gradient:
            grad_logits = log_probabilities.exp_()
            grad_logits[torch.arange(len(logits), device=logits.device), targets[rows]] -= 1
            if loss_weight is not None:
                grad_logits *= loss_weight[rows, None]
            grad_logits = grad_logits.to(hidden.dtype)
            torch.mm(grad_logits, weight, out=grad_hidden[rows])
            grad_weight += grad_logits.T @ hidden[rows]
    return total, grad_hidden, grad_weight.to(weight.dtype)


@_op.register_fake
def _(
    hidden: Tensor, weight: Tensor, targets: Tensor, loss_weight: Tensor | None, chunk: int, needs_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    total = hidden.new_empty((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    if not needs_gradient:
        return total, hidden.new_empty(0), weight.new_empty(0)
    return total, torch.empty_like(hidden), torch.empty_like(weight)


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*output[1:])


def _backward(ctx, grad_total, grad_of_hidden_gradient, grad_of_weight_gradient):
    grad_hidden, grad_weight = ctx.saved_tensors
    return grad_total * grad_hidden, grad_total * grad_weight, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)
