"""Slot `schedule`: the factor on the learning rate. Built as `target(params)`, called with (step, progress).

`progress` in [0, 1] is the share of the budget used up, whatever the budget counts: steps, tokens, FLOPs or seconds.
"""

from pydantic import Field

from foundry.core.contracts import Params, Variant


class WarmupParams(Params):
    warmup: int = Field(20, ge=0, description="optimizer steps of linear rise from 1 / (warmup + 1) to 1")


class DecayParams(WarmupParams):
    min_factor: float = Field(0.0, ge=0, le=1, description="the learning rate at the end, as a share of its peak")


class CosineParams(DecayParams):
    min_factor: float = Field(0.1, ge=0, le=1, description="the learning rate at the end, as a share of its peak")


class WSDParams(DecayParams):
    decay: float = Field(0.2, gt=0, le=1, description="the share of the budget, at its end, in which it falls")


VARIANTS = [
    Variant(
        slot="schedule",
        name="cosine",
        target="foundry.modules.schedule.cosine:Cosine",
        params=CosineParams,
        summary="half a cosine wave",
        reference="arXiv:1608.03983",
    ),
    Variant(
        slot="schedule",
        name="wsd",
        target="foundry.modules.schedule.wsd:WSD",
        params=WSDParams,
        summary="warm up, stay, decay linearly",
        reference="arXiv:2404.06395",
    ),
    Variant(
        slot="schedule",
        name="linear",
        target="foundry.modules.schedule.linear:Linear",
        params=DecayParams,
        summary="a straight line",
    ),
    Variant(
        slot="schedule",
        name="constant",
        target="foundry.modules.schedule.constant:Constant",
        params=WarmupParams,
        summary="after the warm-up, always the same",
    ),
]
