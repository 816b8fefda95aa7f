"""Sliding-window attention (Longformer, arXiv:2004.05150; Mistral 7B, arXiv:2310.06825).

    y_t = softmax over t - W < s <= t of (q_t k_s / sqrt(D)) v_s

Otherwise as multi- or grouped-query attention. Time follows T W instead of T T (`foundry.kernels.SparsePattern`). A
stack of L layers carries a token L (W - 1) further; some layers may see everything: `layers: {SSSL/S: ...}`. The cache
holds a window of tokens.
"""

import torch

from foundry.core.contracts import Dims, Position
from foundry.kernels import SparsePattern
from foundry.modules.attention import SlidingWindowParams
from foundry.modules.attention.cache import TokenCache
from foundry.modules.attention.mha import MultiHeadAttention
from foundry.modules.attention.window_cache import WindowCache


class SlidingWindowAttention(MultiHeadAttention):
    def __init__(self, params: SlidingWindowParams, dims: Dims, position: Position | None) -> None:
        super().__init__(params, dims, position)
        self.window = params.window_size(dims)
        self.pattern = SparsePattern(self.window)

    def init_cache(self, batch: int, max_len: int, dtype: torch.dtype, device: torch.device | str) -> TokenCache:
        shape = batch, self.n_kv_head, WindowCache.places(self.window, max_len), self.head_dim
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        return WindowCache(self.window, max_len, keys, values)
