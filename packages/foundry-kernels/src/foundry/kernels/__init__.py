"""Foundry's custom operators.

causal_attention        causal attention over whole rows, over everything or over a SparsePattern
linear, Linear          the product of every linear layer, and the layer
linear_cross_entropy    the summed cross-entropy of a linear head, which never holds all logits
rms_norm                root mean square normalisation, with a fast gradient on a CPU
sparse_attention        attention under any mask within a SparsePattern, chunk by chunk

They compute as torch does, until `foundry.kernels.native.use` says otherwise.
"""

from foundry.kernels.attention import causal_attention
from foundry.kernels.linear import Linear, linear
from foundry.kernels.linear_cross_entropy import linear_cross_entropy
from foundry.kernels.rms_norm import rms_norm
from foundry.kernels.sparse_attention import sparse_attention
from foundry.kernels.sparse_pattern import SparsePattern

__all__ = [
    "Linear",
    "SparsePattern",
    "causal_attention",
    "linear",
    "linear_cross_entropy",
    "rms_norm",
    "sparse_attention",
]
