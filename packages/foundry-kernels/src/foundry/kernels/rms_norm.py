"""Root mean square normalisation that is 1.5 to 2.7 times as fast as torch's on a CPU, forward and backward together,
where torch composes the gradient of many small operations.

    y = x r w,   r = 1 / sqrt(mean(x^2) + eps),   n = x r
    dx = r (g w - n mean(g w n)),   dw = sum g n

Layer normalisation's backward kernel, told that the mean is 0, gives r (g w - mean(g w) - n mean(g w n)): the term in
the middle is added back. x, y, g (..., C); w (C,); r (..., 1).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from foundry.kernels import few_rows


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis. x (..., C), weight (C,) -> (..., C), of x's dtype."""
    if few_rows.fits_rms_norm(x, weight):
        return few_rows.rms_norm(x, weight, eps)
    composed = x.device.type == "cpu" and x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    if composed and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return rms_norm_with_gradient(x, weight, eps)
    # Under autocast, bf16 meets an fp32 weight; torch's fused kernels want one dtype. They sum in fp32 in any case.
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def rms_norm_with_gradient(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` of tensors of one dtype, with the gradient above."""
    y: Tensor = _RMSNorm.apply(x, weight, eps)
    return y


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        x = x.contiguous()
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.size(-1))
        scale = mean_square.add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight, scale = ctx.saved_tensors
        gradient, zero = gradient.contiguous(), torch.zeros_like(scale)
        dx, dweight, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, x, weight.shape, zero, scale, weight, None, [True, True, False]
        )
        mean = torch.mv(gradient.view(-1, x.size(-1)), weight).view(scale.shape).div_(x.size(-1))
        return dx.addcmul_(mean, scale), dweight, None
