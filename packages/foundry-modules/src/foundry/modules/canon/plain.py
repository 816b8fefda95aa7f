"""Plain texts of canons, see `foundry.core.contracts.plain_text`."""

import torch.nn.functional as F
from torch import Tensor, nn

from foundry.core.contracts.plain_text import Config, dims, settings, spec


class ConvCanon(nn.Module):
    """Short convolutions before and inside the sublayers, each with a residual."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.convs = nn.ModuleDict()
        if "a" in settings.points:
            self.convs["a"] = ShortConv(config.n_embd)
        if "b" in settings.points:
            self.convs["b"] = ShortConv(spec.canon_sizes(dims)["attention"])  # queries, keys and values
        if "c" in settings.points:
            self.convs["c"] = ShortConv(config.n_embd)
        if "d" in settings.points:
            self.convs["d"] = ShortConv(spec.canon_sizes(dims)["ffn"])  # what enters the activation

    def before_attention(self, x: Tensor) -> Tensor:
        if "a" in settings.points:
            return self.convs["a"](x)
        else:
            return x

    if "b" in settings.points:

        def inside_attention(self, x: Tensor) -> Tensor:
            return self.convs["b"](x)

    def before_ffn(self, x: Tensor) -> Tensor:
        if "c" in settings.points:
            return self.convs["c"](x)
        else:
            return x

    if "d" in settings.points:

        def inside_ffn(self, x: Tensor) -> Tensor:
            return self.convs["d"](x)


class ShortConv(nn.Conv1d):
    """Add to a token a weighted sum of itself and those just before it, channel by channel."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size, settings.kernel, groups=size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(F.pad(x.mT, (settings.kernel - 1, 0))).mT
