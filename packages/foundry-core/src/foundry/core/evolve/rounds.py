"""A round's comparison: every proposal and the control once, with the full budget, on a seed of this round alone.

The control is fresh every time. A loop that compares with the best number it ever saw compares with luck: its record
stands until somebody is luckier, and a loop that never trains its baseline again cannot know how lucky that was.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from foundry.core.ledger.records import digest
from foundry.core.sweep.request import CONTROL, Answers, Failure, Request


def compare(arms: Sequence[str], seed: int) -> Generator[Sequence[Request], Answers, dict[str, float | None] | None]:
    """How much better than the control each arm was, in the metric; None: it has no score. Without a score of the
    control there is no comparison at all: None."""
    control, *proposals = [Request(arm, seed, "screen") for arm in (CONTROL, *arms)]
    answers = yield [control, *proposals]
    level = answers[control]
    if isinstance(level, Failure):
        return None
    outcomes = {request.arm: answers[request] for request in proposals}
    return {arm: None if isinstance(score, Failure) else level - score for arm, score in outcomes.items()}


def seed_of(search: str, step: int) -> int:
    """The seed of a round: nobody chooses it, and no other round and no audit has it."""
    return int(digest("evolve", search, step)[:15], 16)
