"""Learned absolute positions, as in GPT-2 (Radford et al., 2019).

x_t + wpe[t]          x (B, T, C), wpe.weight (block_size, C)
"""

from torch import Tensor, nn

from foundry.core.contracts import Dims, UsageError
from foundry.modules.position import LearnedParams


class Learned(nn.Module):
    def __init__(self, params: LearnedParams, dims: Dims) -> None:
        super().__init__()
        self.wpe = nn.Embedding(dims.block_size, dims.n_embd)

    def embed(self, x: Tensor, positions: Tensor | None) -> Tensor:
        if positions is not None:
            return x + self.wpe(positions)
        length, block_size = x.size(1), self.wpe.num_embeddings
        if length > block_size:
            raise UsageError(
                f"{length} tokens, but position `learned` knows block_size = {block_size} positions",
                "shorten the text, or train with a larger block_size or with position rope",
            )
        return x + self.wpe.weight[:length]
