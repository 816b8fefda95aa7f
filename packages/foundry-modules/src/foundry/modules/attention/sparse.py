"""Block-strided sparse attention (Sparse Transformer, Child et al., 2019, arXiv:1904.10509, 4.2-4.3).

In blocks of b tokens, query block i sees of the key blocks j <= i, causally,

    those of its window,   i - j < window / b
    and the columns,       (j + 1) mod stride = 0

This is the paper's "fixed" pattern, which it prefers for text: positions at the end of each stretch gather it, and are
seen by all that follows, so that anything reaches anything in two layers. As in the paper, a head attends to the union
of both ("merged"); as in its kernels, whole blocks are seen; the window slides by blocks here instead of lying still.
"""

from foundry.core.contracts import Dims, Position
from foundry.kernels import SparsePattern
from foundry.modules.attention import SparseParams
from foundry.modules.attention.mha import MultiHeadAttention


class BlockSparseAttention(MultiHeadAttention):
    def __init__(self, params: SparseParams, dims: Dims, position: Position | None) -> None:
        super().__init__(params, dims, position)
        self.pattern = SparsePattern(params.window_size(dims), params.block, params.stride)
