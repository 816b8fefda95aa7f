"""Which of two experiments is better: in pairs of runs, until that is clear. Nothing is promoted."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Literal, TypeAlias

from foundry.core.contracts import FoundryError, UsageError
from foundry.lab.decide.duel import Duel, scores
from foundry.lab.decide.noise import correlation
from foundry.lab.decide.request import Answers, Contender, Failure, Request
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger.records import Evidence, to_number

Choice: TypeAlias = Literal["second", "first", "alike", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """Two arms at the same seeds. `effect` > 0 = the second is better; the interval is the always-valid one over all
    pairs, whenever the comparison was ended."""

    choice: Choice
    reason: str  # one sentence
    pairs: tuple[tuple[float, float], ...]  # (first, second), lower is better; inf: it failed
    effect: float | None
    low: float | None
    high: float | None
    confidence: float
    rho: float | None  # correlation inside the pairs, None where there are too few

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"pairs": [[to_number(score) for score in pair] for pair in self.pairs]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """The comparison that `to_json` wrote."""
        return cls(**{**values, "pairs": tuple((float(first), float(second)) for first, second in values["pairs"])})


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
    failed: dict[str, list[str]] = {}  # arm -> why runs of it have no score
    while (choice := _choice(duel)) == "undecided" and (pairs := duel.ahead(rule.window)):
        answers = yield [request for pair in pairs for request in pair]
        for pair in pairs:
            if all(isinstance(answers[request], Failure) for request in pair):
                reasons = "; ".join(dict.fromkeys(answers[request].reason for request in pair))  # type: ignore[union-attr]
                raise FoundryError(f"{first.arm} and {second.arm} both failed at seed {pair[0].seed}: {reasons}")
            duel.pairs.append(scores(pair, answers))
            for request in pair:
                if isinstance(failure := answers[request], Failure):
                    failed.setdefault(request.arm, []).append(failure.reason)
    reason = {
        "second": f"{second.arm} is better than {first.arm}",
        "first": f"{first.arm} is better than {second.arm}",
        "alike": f"neither is better by {test.delta:.4g}",
        "undecided": f"undecided after {len(duel.pairs)} pairs",
    }[choice]
    of = f"of {len(duel.pairs)} pairs"
    told = [f"{arm} failed in {len(reasons)} {of}: {reasons[0]}" for arm, reasons in failed.items()]
    return _compared(duel, choice, "; ".join([reason, *told]))


def _choice(duel: Duel) -> Choice:
    """What the two tests have decided so far."""
    forward, backward = duel.judgement, duel.test.judge([-each for each in duel.differences])
    won = [(each.n, choice) for each, choice in ((forward, "second"), (backward, "first")) if each.verdict == "promote"]
    if won:
        return "second" if min(won)[1] == "second" else "first"
    hopeless = [each.verdict == "reject" and not duel.test.has_won(each) for each in (forward, backward)]
    return "alike" if all(hopeless) else "undecided"


def _compared(duel: Duel, choice: Choice, reason: str) -> Comparison:
    pairs, test = tuple(duel.pairs), duel.test
    both = [pair for pair in pairs if all(map(math.isfinite, pair))]
    rho = correlation([both])[0] if len(both) > 2 else None
    if not pairs:
        return Comparison(choice, reason, (), None, None, None, test.confidence, rho)
    effect, (low, high) = median(duel.differences), test.interval(duel.differences)
    return Comparison(choice, reason, pairs, effect if math.isfinite(effect) else None, low, high, test.confidence, rho)
