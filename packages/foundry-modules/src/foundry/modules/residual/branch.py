"""What every residual adds to the stream: a sublayer's output, with activations dropped in training, times the scale
rule's multiplier."""

from torch import Tensor, nn

from foundry.core.contracts import Dims


class Branch(nn.Dropout):
    def __init__(self, dims: Dims) -> None:
        super().__init__(dims.dropout)
        self.multiplier = dims.multipliers.branch

    def forward(self, y: Tensor) -> Tensor:
        if self.training:
            y = super().forward(y)
        return y if self.multiplier == 1 else y * self.multiplier
