"""Sliding-window attention (Longformer, arXiv:2004.05150; Mistral 7B, arXiv:2310.06825).

    y_t = softmax over t - W < s <= t of (q_t k_s / sqrt(D)) v_s

Otherwise as multi- or grouped-query attention. Time follows T W instead of T T (`foundry.kernels.SparsePattern`). A
stack of L layers carries a token L (W - 1) further; some layers may see everything: `layers: {SSSL/S: ...}`.
"""

from foundry.core.contracts import Dims, Position
from foundry.kernels import SparsePattern
from foundry.modules.attention import SlidingWindowParams
from foundry.modules.attention.mha import MultiHeadAttention


class SlidingWindowAttention(MultiHeadAttention):
    def __init__(self, params: SlidingWindowParams, dims: Dims, position: Position | None) -> None:
        super().__init__(params, dims, position)
        self.pattern = SparsePattern(params.window_size(dims))
