"""What a search is asked, within which limits, and what came of it: plain values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from foundry.core.config.budget import Budget
from foundry.core.contracts import Stack, UsageError
from foundry.core.garbage import no_garbage
from foundry.lab.decide.conclusion import ArmConclusion
from foundry.lab.decide.request import arm_name
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger import Ledger, SweepRow
from foundry.lab.ledger.records import Verdict, span
from foundry.lab.search.policy import Policy
from foundry.lab.sweep.question import Question


@dataclass(frozen=True)
class SearchSettings:
    """The same settings again are the same search, which goes on where it was left."""

    rule: Rule = field(default_factory=Rule)  # of its audits
    policy: Policy = field(default_factory=Policy)
    proposer: str = "evolutionary"
    seed: int = 0
    tasks: tuple[str, ...] = ()  # evaluated after every training
    budget: Budget | None = None  # of every training, in the steps of the first baseline; None: the baseline's own
    sets: tuple[str, ...] = ()  # as of a `Question`

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", replace(self.rule, finalists=1))  # an audit compares one stack

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule.to_json(),
            "policy": asdict(self.policy),
            "proposer": self.proposer,
            "seed": self.seed,
            "tasks": list(self.tasks),
            **({"budget": [self.budget.name, self.budget.amount]} if self.budget else {}),
            **({"sets": list(self.sets)} if self.sets else {}),  # without both a search is the one that it was before
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SearchSettings:
        """The settings that `to_json` wrote."""
        rule, policy = Rule.from_json(values["rule"]), Policy(**values["policy"])
        budget, sets = values.get("budget"), tuple(values.get("sets", ()))
        return cls(
            *(rule, policy, values["proposer"], values["seed"], tuple(values["tasks"])),
            *(Budget(*budget) if budget else None, sets),
        )

    def question(self, stacks: tuple[Stack, ...], rule: Rule | None = None) -> Question:
        """What one step of the search asks.

        Args:
            rule: by default that of the audits.
        """
        return Question(stacks, rule or self.rule, self.budget, (), self.tasks, self.sets)

    @classmethod
    def last(cls, ledger: Ledger) -> SearchSettings:
        """What the newest search was asked. No search is ever over: a higher limit, or a new plugin, and it goes on.

        Raises:
            UsageError: there is none.
        """
        newest = next(reversed(searches(ledger)), None)
        if newest is None or newest.quest is None:
            raise UsageError("there is no search to resume", "`foundry evolve` begins one")
        return cls.from_json(newest.quest)


@no_garbage()
def searches(ledger: Ledger) -> list[SweepRow]:
    """Those that were begun, oldest first."""
    return [row for row in ledger.sweeps() if row.quest is not None]


@dataclass(frozen=True)
class Limits:
    """Of a whole search, once the noise of its first baseline is known; the hours are those of one call. None: without
    end."""

    trials: int | None = None
    flops: float | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            if limit is not None and not limit > 0:
                raise UsageError(f"--max-{name} {limit:g}: must be more than 0")

    def left(self, spent: Spent) -> float:
        """How many more trainings fit in, if they are like those so far."""
        fits = [float("inf")]
        if self.trials is not None:
            fits.append(self.trials - spent.trials)
        if self.flops is not None and spent.trials:
            fits.append((self.flops - spent.flops) / max(spent.flops / spent.trials, 1.0))
        if self.hours is not None:
            seconds = self.hours * 3600 - spent.seconds
            pace = spent.seconds / spent.trials_now if spent.trials_now else 0.0
            fits.append(seconds / pace if pace else float("inf") if seconds > 0 else 0.0)
        return min(fits)

    def __str__(self) -> str:
        """`--max-trials 200`."""
        return " ".join(f"--max-{name} {limit:g}" for name, limit in asdict(self).items() if limit is not None)


def room_for_a_round(policy: Policy, rule: Rule, left: float) -> bool:
    """Whether `left` runs are enough for a round, and for an audit after it that may pass."""
    return left >= _least(policy, rule)


def check_room(policy: Policy, rule: Rule, limits: Limits, left: float) -> None:
    """Raises UsageError if a search could not even begin."""
    if not room_for_a_round(policy, rule, left):
        raise UsageError(
            f"{limits} leaves no room for a round of {policy.proposals} proposals and an audit",
            f"they take {_least(policy, rule)} trainings: raise it, or propose fewer at a time with --proposals",
        )


def _least(policy: Policy, rule: Rule) -> int:
    """Runs of the proposals, of their control, and of the shortest audit that passes."""
    return policy.proposals + 1 + 2 * rule.least_pairs


def within(rule: Rule, left: float) -> Rule:
    """The rule of an audit that may take `left` runs."""
    return replace(rule, n_max=int(max(1, min(rule.n_max, left // 2))))


@dataclass
class Spent:
    """What a search has used up."""

    trials: int = 0
    flops: float = 0.0  # 0 where the budget counts seconds
    trials_now: int = 0  # of the trials, those of this call
    began: float = field(default_factory=time.monotonic)  # this call

    @property
    def seconds(self) -> float:
        """Of this call."""
        return time.monotonic() - self.began

    def add(self, trials: int, flops: float, *, now: bool) -> None:
        self.trials += trials
        self.flops += flops
        self.trials_now += trials * now


@dataclass(frozen=True)
class Audited:
    """One audit, in the words of its decision."""

    stack: Stack  # what it added to the verified baseline
    verdict: Verdict
    reason: str
    effect: float | None
    low: float | None
    high: float | None
    confidence: float | None  # of low..high
    pairs: int
    generation: int | None  # which it became; None: not promoted

    @property
    def arm(self) -> str:
        """The stack in words: `activation relu2 + depth 6`."""
        return arm_name(self.stack)

    @property
    def interval(self) -> str:
        """Where the true difference lies, in words; see `span`."""
        return span(self.low, self.high, self.confidence)

    @classmethod
    def of(cls, stack: Stack, arm: ArmConclusion | None, generation: int | None) -> Audited:
        """`arm`: what the audit concluded; None where the stack made no valid experiment."""
        if arm is None:
            nothing = "it makes no valid experiment on this baseline"
            return cls(stack, "reject", nothing, None, None, None, None, 0, None)
        if (judged := arm.judgement) is None:
            return cls(stack, arm.verdict, arm.reason, None, None, None, None, 0, generation)
        interval = (judged.low, judged.high, judged.confidence)
        return cls(stack, arm.verdict, arm.reason, judged.effect, *interval, judged.n, generation)


@dataclass(frozen=True)
class Evolved:
    """How far a search has come."""

    search: str
    settings: SearchSettings
    why: str  # it ended here
    generation: int  # the baseline now
    loss: float | None  # its confirmed mean of the metric
    rounds: int
    tried: int  # proposals that were judged
    kept: int
    keep_rates: Mapping[str, tuple[int, int]]  # mutation type -> (kept, tried)
    audits: tuple[Audited, ...]
    unverified: Stack  # kept, and not audited yet
    spent: Spent

    @property
    def unverified_arm(self) -> str | None:
        """What is kept, and not audited yet, in words."""
        return arm_name(self.unverified) if self.unverified else None

    @property
    def promotions(self) -> list[Audited]:
        return [each for each in self.audits if each.generation is not None]

    @property
    def expected_false(self) -> float:
        """False promotions to expect, at most: the sum of the audits' stated rates."""
        return self.settings.rule.alpha * len(self.audits)

    @property
    def gain(self) -> float:
        """The sum of the promotions' effects, in the metric. An estimate, and too large on average: each audit ended
        when its effect looked good."""
        return sum(each.effect or 0.0 for each in self.promotions)

    @property
    def least_gain(self) -> float:
        """The sum of the lower ends: what the promotions gained at least, as long as every interval holds."""
        return sum(each.low or 0.0 for each in self.promotions)

    def to_json(self) -> dict[str, Any]:
        return {
            "search": self.search,
            **self.settings.to_json(),
            "why": self.why,
            "generation": self.generation,
            "loss": self.loss,
            "gain": self.gain,
            "least_gain": self.least_gain,
            "rounds": self.rounds,
            "tried": self.tried,
            "kept": self.kept,
            "keep_rate": self.kept / self.tried if self.tried else None,
            "keep_rates": {type: {"kept": kept, "tried": tried} for type, (kept, tried) in self.keep_rates.items()},
            "audits": [{**asdict(each), "stack": each.arm} for each in self.audits],
            "promotions": len(self.promotions),
            "expected_false_promotions": self.expected_false,
            "unverified": self.unverified_arm,
            "trials": self.spent.trials,
            "flops": self.spent.flops or None,
            "seconds": self.spent.seconds,
        }
