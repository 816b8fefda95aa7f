"""Grouped-query attention (Ainslie et al., 2023, arXiv:2305.13245); with one key/value head it is multi-query
attention (Shazeer, 2019, arXiv:1911.02150).

    head_h = softmax(q_h k_g^T / sqrt(D) + causal mask) v_g,   g = floor(h * H_kv / H)

q (B, H, T, D); k, v (B, H_kv, T, D): the cache is H_kv / H of multi-head attention's.
"""

from foundry.modules.attention.mha import MultiHeadAttention


class GroupedQueryAttention(MultiHeadAttention):
    """As its parent: `GQAParams.kv_heads` makes the difference."""

    decoding_step = MultiHeadAttention.decoding_step  # which counts for the class that says it alone
