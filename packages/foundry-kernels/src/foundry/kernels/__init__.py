"""Foundry's custom operators behind torch.library.

linear_cross_entropy    the summed cross-entropy of a linear head, which never holds all logits
"""

from foundry.kernels.linear_cross_entropy import linear_cross_entropy

__all__ = ["linear_cross_entropy"]
