"""Maximal update parametrisation, muP (Yang et al., 2022, arXiv:2203.03466), relative to a base of width n_embd / m.

                     input (embeddings, gains, biases)   hidden      output    head
    initial std      1                                   m^-1/2      m^-1      1
    Adam's rate      1                                   m^-1        m^-1      1
    Muon's rate      1                                   1           m^-1/2    -
    in the forward   1                                   1           1         logits / m

Hidden and output are the paper's table 3, the head is its table 8: the head keeps its initial weights and its rate, and
the logits are divided instead. An embedding has the same rule, so a tied head is as much muP as an untied one. Scores
are q k / D rather than / sqrt(D), from the base on: they are multiplied by (D / base_head_dim)^-1/2, which is 1 where a
wider model has more heads of the same width.

Muon's hidden matrices need no rule: an orthogonal update has the spectral norm that the learning rate gives it at every
width, and feature learning asks for sqrt(rows / columns) of it (Yang, Simon and Bernstein, 2023, arXiv:2310.17813),
which the base's rate and Muon's own factor for tall matrices already hold. Only an output's columns grow alone.
"""

from foundry.core.contracts import Dims, Multipliers, Update, Weight
from foundry.modules.scaling import MuPParams


class MuP:
    def __init__(self, params: MuPParams, dims: Dims, base: Dims) -> None:
        self.width = dims.n_embd / base.n_embd
        self.multipliers = Multipliers(scores=(dims.head_dim / base.head_dim) ** -0.5, logits=1 / self.width)

    def init_factor(self, weight: Weight) -> float:
        match weight.kind:
            case "hidden":
                return self.width**-0.5
            case "output":
                return 1 / self.width
            case _:
                return 1.0

    def lr_factor(self, weight: Weight, update: Update) -> float:
        match update, weight.kind:
            case "elementwise", "hidden" | "output":
                return 1 / self.width
            case "orthogonal", "output":
                return self.width**-0.5
            case _:
                return 1.0
