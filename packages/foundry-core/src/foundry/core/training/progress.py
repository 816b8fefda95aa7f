"""How far a training has come."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """All of it goes into every checkpoint, beside the states of the jobs."""

    step: int = 0
    cursor: int = 0  # training rows used
    tokens: int = 0  # that were trained on
    positions: int = 0  # that were computed, padding included
    seconds: float = 0.0  # of training; evaluation, sampling and saving left out
    micro_batch: int = 0
    codes: list[str] = field(default_factory=list)  # by which it was trained so far, see foundry.core.code
