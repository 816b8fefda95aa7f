"""Learning rates that fall with the root of the width, as in nanochat (Karpathy, 2025, nanochat/gpt.py,
setup_optimizers): AdamW's are times (n_embd / base_n_embd)^-1/2, Muon's stay.

There AdamW moves only embeddings and head, and Muon the rest; here the rule holds for whatever an optimizer of the kind
moves that grows with the width.
"""

from foundry.core.contracts import UNSCALED, Dims, Update, Weight
from foundry.modules.scaling import SqrtWidthParams


class SqrtWidth:
    def __init__(self, params: SqrtWidthParams, dims: Dims, base: Dims) -> None:
        self.width = dims.n_embd / base.n_embd
        self.multipliers = UNSCALED

    def init_factor(self, weight: Weight) -> float:
        return 1.0

    def lr_factor(self, weight: Weight, update: Update) -> float:
        return self.width**-0.5 if update == "elementwise" and weight.kind != "fixed" else 1.0
