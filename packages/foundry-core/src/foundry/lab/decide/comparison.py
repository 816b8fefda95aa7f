"""Which of two experiments is better: in pairs of runs, until that is clear. Nothing is promoted."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from foundry.core.contracts import FoundryError, UsageError
from foundry.lab.decide.duel import BrokenPair, Duel, scores
from foundry.lab.decide.noise import correlation
from foundry.lab.decide.request import Answers, Contender, Request
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger.records import Evidence

Choice: TypeAlias = Literal["second", "first", "alike", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """Two arms at the same seeds. `effect` > 0 = the second is better; the interval is the always-valid one over all
    pairs, whenever the comparison was ended."""

    choice: Choice
    reason: str  # one sentence
    pairs: tuple[tuple[float, float], ...]  # (first, second), lower is better
    effect: float | None
    low: float | None
    high: float | None
    confidence: float
    rho: float | None  # correlation inside the pairs, None where there are too few

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"pairs": [list(pair) for pair in self.pairs]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """The comparison that `to_json` wrote."""
        return cls(**{**values, "pairs": tuple((first, second) for first, second in values["pairs"])})


def compare_procedure(
    first: Contender, second: Contender, rule: Rule, sigma: float, df: int, *, rho: float = 0.0
) -> Generator[Sequence[Request], Answers, Comparison]:
    """Pairs of runs, window by window, until one of the two is better, neither is by delta, or there are n_max pairs.
    Two tests run side by side, one for each direction, at alpha / 2 each. The seeds are those on which a sweep would
    confirm `second` against `first`: what one of them trained, the other looks up.

    Raises UsageError for an experiment compared with itself, FoundryError where both fail at the same seed.
    """
    if first.identity == second.identity:
        raise UsageError(f"{first.arm} and {second.arm} are the same experiment: there is nothing to compare")
    test = replace(rule.test(sigma, df, rho), comparisons=2)
    duel = Duel(first, second, Evidence(0, first.identity, second.identity, rule.metric), test)
    while (choice := _choice(duel)) == "undecided" and (pairs := duel.ahead(rule.window)):
        answers = yield [request for pair in pairs for request in pair]
        for pair in pairs:
            found = scores(pair, answers)
            if isinstance(found, BrokenPair):
                return _broken(duel, found)
            duel.pairs.append(found)
    reason = {
        "second": f"{second.arm} is better than {first.arm}",
        "first": f"{first.arm} is better than {second.arm}",
        "alike": f"neither is better by {test.delta:.4g}",
        "undecided": f"undecided after {len(duel.pairs)} pairs",
    }[choice]
    return _compared(duel, choice, reason)


def _choice(duel: Duel) -> Choice:
    """What the two tests have decided so far."""
    forward, backward = duel.judgement, duel.test.judge([-each for each in duel.differences])
    won = [(each.n, choice) for each, choice in ((forward, "second"), (backward, "first")) if each.verdict == "promote"]
    if won:
        return "second" if min(won)[1] == "second" else "first"
    return "alike" if forward.verdict == backward.verdict == "reject" else "undecided"


def _broken(duel: Duel, pair: BrokenPair) -> Comparison:
    """Who fails has lost; raises FoundryError where both do."""
    first, second = duel.control.arm, duel.candidate.arm
    if pair.control is not None and pair.candidate is not None:
        reasons = f"{pair.control.reason}; {pair.candidate.reason}"
        raise FoundryError(f"{first} and {second} both failed at seed {pair.seed}: {reasons}")
    if pair.control is not None:
        return _compared(duel, "second", f"{first} failed at seed {pair.seed}: {pair.control.reason}")
    assert pair.candidate is not None
    return _compared(duel, "first", f"{second} failed at seed {pair.seed}: {pair.candidate.reason}")


def _compared(duel: Duel, choice: Choice, reason: str) -> Comparison:
    pairs, test, n = tuple(duel.pairs), duel.test, len(duel.pairs)
    rho = correlation([pairs])[0] if n > 2 else None
    if n == 0:
        return Comparison(choice, reason, (), None, None, None, test.confidence, rho)
    effect = math.fsum(duel.differences) / n
    low, high = test.interval(effect, n)
    return Comparison(choice, reason, pairs, effect, low, high, test.confidence, rho)
