"""How a sweep ended: for every arm what was seen, what was decided, and why, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from foundry.lab.decide.request import CONTROL
from foundry.lab.decide.sequential import Judgement
from foundry.lab.ledger.records import Terms, Verdict, from_number, to_number


@dataclass(frozen=True)
class Screened:
    """An arm's runs on one rung."""

    share: Fraction  # of the budget
    mean: float  # of the metric, lower is better
    n: int  # runs
    difference: float  # control's mean - arm's mean, > 0 = better


@dataclass(frozen=True)
class Duelled:
    """An arm against a control, on fresh seeds."""

    control: str  # the arm that it was compared with
    judgement: Judgement  # of the sequential test
    terms: Terms  # by which it was judged
    differences: tuple[float, ...]  # control - arm at the pair's seeds 0, 1, ...: the evidence so far
    pairs: tuple[tuple[float, float], ...]  # (control, arm) of those pairs that this sweep ran; inf: it failed


@dataclass(frozen=True)
class ArmConclusion:
    """What became of one arm."""

    arm: str
    verdict: Verdict
    reason: str  # one sentence
    screening: tuple[Screened, ...] = ()
    duels: tuple[Duelled, ...] = ()  # with the control, and then, where that is another, with the baseline as it is

    @property
    def judgement(self) -> Judgement | None:
        """Against the control, None where no pair was run."""
        return self.duels[0].judgement if self.duels else None

    @property
    def loss(self) -> float | None:
        """The candidate's mean over the fresh seeds that this sweep ran, lower is better."""
        return self._mean(1)

    @property
    def control_loss(self) -> float | None:
        """The control's, at the same seeds."""
        return self._mean(0)

    def _mean(self, side: int) -> float | None:
        pairs = self.duels[0].pairs if self.duels else ()
        scores = [pair[side] for pair in pairs if math.isfinite(pair[side])]
        return math.fsum(scores) / len(scores) if scores else None


@dataclass(frozen=True)
class Conclusion:
    """The end of a sweep."""

    arms: tuple[ArmConclusion, ...]  # in the order of the sweep, the baseline is not among them
    winner: str | None  # the arm to promote
    control: str  # the arm that they were compared with: the baseline, or its best learning rate
    error_rate: str  # in words
    runs: int  # requests, those included that the ledger answered
    cost: Fraction  # full budgets that these runs are worth
    given_up: float  # Generation.given_up after the winner's promotion; as it was where no arm won
    controls: Mapping[str, tuple[float, ...]]  # share -> the control's scores on that rung: they measure noise, too

    @property
    def is_open(self) -> bool:
        """Whether a finalist is undecided after all the pairs that one sweep runs: more pairs would tell."""
        verdicts = [duel.judgement.verdict for arm in self.arms for duel in arm.duels]
        return self.winner is None and "inconclusive" in verdicts

    @property
    def control_is_baseline(self) -> bool:
        """Whether the arms were compared with the baseline as it is, and not at a better learning rate."""
        return self.control == CONTROL

    def arm(self, name: str) -> ArmConclusion:
        """The conclusion about one arm."""
        return next(each for each in self.arms if each.arm == name)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the ledger."""
        return asdict(
            self,
            dict_factory=lambda items: {key: _plain(value) for key, value in items},
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Conclusion:
        """The conclusion that `to_json` wrote."""
        arms = tuple(_arm_from_json(each) for each in values["arms"])
        controls = {share: tuple(scores) for share, scores in values["controls"].items()}
        return cls(**{**values, "arms": arms, "cost": Fraction(values["cost"]), "controls": controls})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, Fraction):
        return str(value)
    return to_number(value) if isinstance(value, float) else value


def nothing(given_up: float, why: Mapping[str, str] | None = None) -> Conclusion:
    """The conclusion where nothing could be compared. `why`: arm -> the reason."""
    arms = tuple(ArmConclusion(arm, "inconclusive", reason) for arm, reason in (why or {}).items())
    return Conclusion(arms, None, CONTROL, "", 0, Fraction(0), given_up, {})


def _arm_from_json(values: Mapping[str, Any]) -> ArmConclusion:
    return ArmConclusion(
        **{
            **values,
            "screening": tuple(Screened(**{**each, "share": Fraction(each["share"])}) for each in values["screening"]),
            "duels": tuple(_duel_from_json(each) for each in values["duels"]),
        }
    )


def _duel_from_json(values: Mapping[str, Any]) -> Duelled:
    return Duelled(
        **{
            **values,
            "judgement": Judgement(**values["judgement"]),
            "terms": Terms(**values["terms"]),
            "differences": tuple(map(from_number, values["differences"])),
            "pairs": tuple((float(control), float(arm)) for control, arm in values["pairs"]),
        }
    )
