"""Foundry's custom operators.

linear_cross_entropy    the summed cross-entropy of a linear head, which never holds all logits
rms_norm                root mean square normalisation, with a fast gradient on a CPU
"""

from foundry.kernels.linear_cross_entropy import linear_cross_entropy
from foundry.kernels.rms_norm import rms_norm

__all__ = ["linear_cross_entropy", "rms_norm"]
