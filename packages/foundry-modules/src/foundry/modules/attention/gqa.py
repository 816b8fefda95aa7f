"""Grouped-query attention (Ainslie et al., 2023, arXiv:2305.13245); with one key/value head it is multi-query
attention (Shazeer, 2019, arXiv:1911.02150).

    head_h = softmax(q_h k_g^T / sqrt(D) + causal mask) v_g,   g = floor(h * H_kv / H)

q (B, H, T, D); k, v (B, H_kv, T, D): the cache is H_kv / H of multi-head attention's.
"""

from foundry.core.contracts import Dims, Position
from foundry.modules.attention import GQAParams
from foundry.modules.attention.mha import MultiHeadAttention


class GroupedQueryAttention(MultiHeadAttention):
    def __init__(self, params: GQAParams, dims: Dims, position: Position | None) -> None:
        super().__init__(params, dims, position, n_kv_head=params.n_kv_head)
