"""The long loop as a pure generator: a provisional lane that moves fast, and audits that decide what it is worth.

    round   n proposals against a fresh control, one run each; the best is kept, provisionally, if it is better than the
            control by `margin` standard deviations
    audit   after k keeps: the whole stack against the last verified baseline, by the sequential test on fresh seeds
            passed      the stack becomes the baseline, k doubles
            otherwise   back to the verified baseline, k halves

One run each is cheap and often wrong; that is why nothing counts before an audit. The audit tests one hypothesis, "is
the stack better?", however many keeps are in it, so it is rare where ideas are plentiful, and comes after every keep
where they are not. Strict: an audit after every keep, always.

The search asks for `Round`s and `Audit`s and is sent `Answer`s. It reads no clock and draws no number: proposals come
from `propose`. With the same answers and proposals it takes the same way, so a search that was killed is run again from
its beginning, on answers from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from foundry.core.contracts import Fate, FoundryError, Stack, Tried, UsageError
from foundry.lab.ledger.records import Verdict
from foundry.lab.search.rounds import best_of
from foundry.lab.search.stacks import SETTLED, added, settled

PATIENCE = 3
"""Rounds without a score of the verified baseline that end a search."""


@dataclass(frozen=True)
class Policy:
    """How much is proposed, how easily it is kept, and how often it is audited.

    The defaults come from benchmarks/evolve.py.
    """

    proposals: int = 8  # in a round
    margin: float = 0.5  # standard deviations of one run by which the best must beat its control to be kept
    first_stack: int = 4  # keeps before the first audit
    largest_stack: int = 8  # keeps before an audit, at most

    def __post_init__(self) -> None:
        if self.proposals < 1 or self.margin < 0 or not 1 <= self.first_stack <= self.largest_stack:
            raise UsageError(
                f"the search's policy: {self}",
                "a round needs a proposal, a margin is >= 0, and 1 <= first_stack <= largest_stack",
            )

    @classmethod
    def strict(cls, proposals: int = 8) -> Policy:
        """Every keep is audited at once."""
        return cls(proposals, margin=0.0, first_stack=1, largest_stack=1)


@dataclass(frozen=True)
class Round:
    """Compare proposals with what is kept."""

    origin: int  # the generation that stacks start from
    current: Stack  # the control
    proposals: tuple[Stack, ...]


@dataclass(frozen=True)
class Audit:
    """Compare what is kept with what is verified."""

    origin: int
    verified: Stack
    stack: Stack


Step: TypeAlias = Round | Audit


@dataclass(frozen=True)
class Answer:
    """What came out of a step."""

    effects: Mapping[Stack, float | None] | None = field(default_factory=dict)
    """Of a round: how much better than the control each proposal was, in the metric; None: it has no score. None
    instead of all this: the control itself has no score."""
    verdict: Verdict | None = None  # of an audit
    effect: float | None = None  # of an audit: its median difference, > 0 = better
    moved: int | None = None  # the baseline is this generation now, and not by this search
    last: bool = False  # no budget is left for another round


Propose: TypeAlias = Callable[["Search"], Sequence[Stack]]
Steps: TypeAlias = Generator[Step, Answer, None]


class Search:
    """A search on its way: what is verified, what is kept, and all that was tried. Nothing in it is changed but by its
    own `steps()`."""

    def __init__(
        self, origin: int, policy: Policy, sigma: float, propose: Propose, history: Sequence[Tried] = ()
    ) -> None:
        """
        Args:
            origin: the generation of the baseline.
            sigma: standard deviation of one run over seeds, in the metric.
            propose: asked once per round, with this search.
            history: what earlier sweeps know.
        """
        self.origin, self.policy, self.sigma, self.propose = origin, policy, sigma, propose
        self.history = [*history]
        self.settled = settled(history, origin)
        self.verified: Stack = ()
        self.current: Stack = ()
        self.keeps = 0  # since the last audit
        self.patience = policy.first_stack  # keeps before the next audit
        self.rounds = 0
        self.audits = 0
        self.promotions = 0
        self.stumbles = 0  # rounds without a score of the control, one after the other

    @property
    def least(self) -> float:
        """How much better than its control the best of a round must be, in the metric."""
        return self.policy.margin * self.sigma

    def steps(self) -> Steps:
        """Ends when no budget is left for another round, or the proposer has nothing left to propose.

        Raises FoundryError where the verified baseline cannot be trained any more.
        """
        last = False
        while not last:
            proposals = () if self.keeps >= self.patience else self.fresh(self.propose(self))
            if proposals:
                last = yield from self.round(proposals)
            if self.keeps and (last or not proposals):
                last = yield from self.audit()
            elif not proposals:
                return

    def fresh(self, proposals: Sequence[Stack]) -> tuple[Stack, ...]:
        """What of a proposer's answer is worth a round: the new ones, as many as fit in it."""
        known = self.settled | {(), self.current, self.verified}
        return tuple(stack for stack in dict.fromkeys(proposals) if stack not in known)[: self.policy.proposals]

    def round(self, proposals: tuple[Stack, ...]) -> Generator[Step, Answer, bool]:
        """Whether the budget is used up."""
        answer = yield Round(self.origin, self.current, proposals)
        self.rounds += 1
        if answer.effects is None:
            self.stumble()
        else:
            self.keep_best(proposals, answer.effects)
        self.follow(answer.moved)
        return answer.last

    def keep_best(self, proposals: tuple[Stack, ...], effects: Mapping[Stack, float | None]) -> None:
        scored = {stack: effect for stack in proposals if (effect := effects.get(stack)) is not None}
        best = best_of(scored, self.least)
        for stack in proposals:
            fate: Fate = "failed" if stack not in scored else "kept" if stack == best else "passed_over"
            self.record(stack, self.current, fate, scored.get(stack))
        if best is not None:
            self.current, self.keeps = best, self.keeps + 1
        self.stumbles = 0

    def stumble(self) -> None:
        """The control has no score: what is kept does not train reliably."""
        self.stumbles += 1
        if self.current != self.verified:
            self.roll_back("rejected", None)
        elif self.stumbles == PATIENCE:
            raise FoundryError(
                f"the baseline itself failed in {PATIENCE} rounds, one after the other",
                "`foundry query status=failed` shows why; `foundry rollback` goes back to the one before",
            )

    def audit(self) -> Generator[Step, Answer, bool]:
        """Whether the budget is used up."""
        answer = yield Audit(self.origin, self.verified, self.current)
        self.audits += 1
        if answer.moved is None:
            self.settle(answer)
        self.follow(answer.moved)
        return answer.last

    def settle(self, answer: Answer) -> None:
        """Forward with the whole stack, or back to what is verified."""
        if answer.verdict != "promote":
            return self.roll_back("rejected" if answer.verdict == "reject" else "unproven", answer.effect)
        self.record(self.current, self.verified, "verified", answer.effect)
        self.verified, self.keeps = self.current, 0
        self.promotions += 1
        self.patience = min(self.patience * 2, self.policy.largest_stack)

    def roll_back(self, fate: Fate, effect: float | None) -> None:
        self.record(self.current, self.verified, fate, effect)
        self.current, self.keeps = self.verified, 0
        self.patience = max(1, self.patience // 2)

    def record(self, stack: Stack, parent: Stack, fate: Fate, effect: float | None) -> None:
        self.history.append(Tried(self.origin, parent, stack, fate, effect))
        if fate in SETTLED:
            self.settled.add(stack)

    def follow(self, moved: int | None) -> None:
        """Somebody else changed the baseline: what is kept but not verified is judged again, on top of the new one."""
        if moved is None:
            return
        self.origin, self.verified, self.current = moved, (), added(self.current, self.verified)
        self.keeps = self.patience if self.current else 0
        self.settled = settled(self.history, moved)
