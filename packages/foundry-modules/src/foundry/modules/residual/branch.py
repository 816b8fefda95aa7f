"""What every residual adds to the stream: a sublayer's output, with activations dropped in training, times the scale
rule's multiplier."""

from torch import Tensor, nn

from foundry.core.contracts import Dims


class Branched(nn.Module):
    """Base of the residuals. A branch is no module of its own: calling one twice per layer took a fiftieth of the time
    of decoding a token with 1 M parameters."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dims.dropout)
        self.multiplier = dims.multipliers.branch

    def branch(self, y: Tensor) -> Tensor:
        if self.training:
            y = self.dropout(y)
        return y if self.multiplier == 1 else y * self.multiplier
