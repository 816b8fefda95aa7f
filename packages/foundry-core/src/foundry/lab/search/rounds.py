"""A round's comparison: every proposal and the control once, with the full budget, on a seed of this round alone.

The control is fresh every time. A loop that compares with the best number it ever saw compares with luck: its record
stands until a luckier run comes, and a loop that never trains its baseline again cannot know how lucky that was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

from foundry.core.digest import digest
from foundry.lab.decide.conclusion import ArmConclusion, Conclusion, Screened
from foundry.lab.decide.procedure import Procedure
from foundry.lab.decide.request import CONTROL, Failure, Outcome, Request

Name = TypeVar("Name")
FULL = Fraction(1)


def compare(arms: Sequence[str], seed: int, least: float, given_up: float = 0.0) -> Procedure:
    """Decides nothing but which arm is worth keeping until an audit.

    Args:
        least: by how much, in the metric, the best must be better than the control to be kept.
        given_up: Generation.given_up of the baseline, which stays as it is.
    """
    control, *requests = [Request(arm, seed, "screen") for arm in (CONTROL, *arms)]
    answers = yield [control, *requests]
    level = answers[control]
    outcomes = {request.arm: answers[request] for request in requests}
    if isinstance(level, Failure):
        ends = tuple(ArmConclusion(arm, "inconclusive", f"the control failed: {level.reason}") for arm in arms)
        controls: Mapping[str, tuple[float, ...]] = {}
    else:
        effects = {arm: None if isinstance(each, Failure) else level - each for arm, each in outcomes.items()}
        kept = best_of(effects, least)
        ends = tuple(_end(arm, outcomes[arm], level, kept) for arm in arms)
        controls = {str(FULL): (level,)}
    return Conclusion(
        arms=ends,
        winner=None,
        control=CONTROL,
        error_rate="one run each decides nothing: what is kept is provisional until an audit",
        runs=1 + len(arms),
        cost=FULL * (1 + len(arms)),
        given_up=given_up,
        controls=controls,
    )


def best_of(effects: Mapping[Name, float | None], least: float) -> Name | None:
    """The one with the largest effect, if that is more than `least`."""
    scored = {name: effect for name, effect in effects.items() if effect is not None and effect > least}
    return max(scored, key=lambda name: scored[name], default=None)


def effects_of(conclusion: Conclusion) -> dict[str, float | None] | None:
    """How much better than the control each arm was; None: it has no score. Without a score of the control there is
    no comparison at all: None."""
    if conclusion.arms and not conclusion.controls:
        return None
    return {each.arm: each.screening[-1].difference if each.screening else None for each in conclusion.arms}


def seed_of(search: str, step: int) -> int:
    """The seed of a round: it cannot be chosen, and no other round and no audit has it."""
    return int(digest("evolve", search, step)[:15], 16)


def _end(arm: str, outcome: Outcome, level: float, kept: str | None) -> ArmConclusion:
    if isinstance(outcome, Failure):
        return ArmConclusion(arm, "reject", f"its run failed: {outcome.reason}")
    seen = Screened(FULL, outcome, 1, level - outcome)
    what = "kept until the audit" if arm == kept else "passed over"
    return ArmConclusion(arm, "inconclusive", f"{what}: {seen.difference:+.4f} against a fresh control", (seen,))
