"""Value embeddings (modded-nanogpt, 2024; value residuals: Zhou et al., 2024, arXiv:2410.17897).

v_t <- v_t + table[id_t]          id_t < V, table.weight (V, size), v_t (size,)
"""

from torch import Tensor, nn

from foundry.core.contracts import Dims
from foundry.modules.value_embedding import TableParams


class Table(nn.Module):
    def __init__(self, params: TableParams, dims: Dims, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(dims.vocab_size, size)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        values: Tensor = self.table(ids)
        return values.to(x.dtype)
