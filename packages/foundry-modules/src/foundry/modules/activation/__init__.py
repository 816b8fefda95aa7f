"""Slot `activation`: the non-linearity of a feed-forward network. Built as `target(params, dims)`.

A gated one is called with (gate, up): the non-linearity acts on `gate`, and `up` is multiplied by the result. A plain
one is called with (up). All tensors are (..., F). The module's `nonlinearity`, if it has one, names what acts on
`gate` or `up` for a kernel that computes the whole network: see `foundry.kernels.whole_layers.NONLINEARITIES`.
It holds for the class that says it: a subclass says it again.
"""

from typing import Literal

from pydantic import Field

from foundry.core.contracts import ActivationParams, Variant


class PlainParams(ActivationParams):
    """An activation without settings."""


class GatedParams(ActivationParams):
    """A gated activation without settings."""

    gated = True


class GELUParams(ActivationParams):
    approximate: Literal["none", "tanh"] = Field(
        "none", description="none: x times the normal distribution function; tanh: GPT-2's approximation of it"
    )


class GEGLUParams(GELUParams):
    gated = True


def _variant(name: str, attribute: str, params: type[ActivationParams], summary: str, reference: str) -> Variant:
    target = f"foundry.modules.activation.{name}:{attribute}"
    plain = f"foundry.modules.activation.plain:{name}"
    return Variant("activation", name, target, params, summary, reference, plain=plain)


VARIANTS = [
    _variant("swiglu", "SwiGLU", GatedParams, "silu(gate) * up", "arXiv:2002.05202"),
    _variant("geglu", "GEGLU", GEGLUParams, "gelu(gate) * up", "arXiv:2002.05202"),
    _variant("glu", "GLU", GatedParams, "sigmoid(gate) * up", "arXiv:1612.08083"),
    _variant("gelu", "GELU", GELUParams, "gelu(up)", "arXiv:1606.08415"),
    _variant("relu2", "ReLUSquared", PlainParams, "relu(up)^2", "arXiv:2109.08668"),
    _variant("relu", "ReLU", PlainParams, "max(up, 0)", "arXiv:1706.03762"),
    _variant("silu", "SiLU", PlainParams, "up * sigmoid(up)", "arXiv:1702.03118"),
]
