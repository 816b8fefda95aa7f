"""The long loop in a world whose truth is known, beside the loops that people run.

The world: ideas whose true effect on the *loss* is a draw from N(mean, spread), so a negative one helps; effects add
up. A run's loss is the truth plus N(0, sigma). A loop has a budget of runs. What counts in the end is the true change
of the loss of what the loop calls its baseline, and how many of its promotions truly made it worse.

    greedy    the best of K becomes the baseline if it beats one fresh run of the baseline
    ratchet   the best of K becomes the baseline if it beats the best number seen so far; nothing is run twice
    ours      `foundry.lab.search.policy`, audits by `foundry.lab.decide.procedure`: the code that runs for real
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from foundry.core.contracts import Stack
from foundry.lab.decide.procedure import sweep_procedure
from foundry.lab.decide.request import CONTROL, Contender, Outcome, Request
from foundry.lab.decide.rule import Rule
from foundry.lab.decide.simulate import play
from foundry.lab.search.policy import Answer, Audit, Policy, Round, Search, Step
from foundry.lab.search.rounds import compare, effects_of, seed_of
from foundry.lab.search.settings import room_for_a_round, within

KNOWN = 1_000_000
"""Degrees of freedom of a sigma that is known."""


@dataclass(frozen=True)
class GaussianIdeas:
    """Where ideas come from, and how well a run tells what they are worth."""

    mean: float  # of an idea's effect on the loss, in nats; > 0 = the average idea harms
    spread: float = 0.01  # standard deviation of effects
    sigma: float = 0.005  # of a run's loss over seeds
    budget: int = 1000  # runs
    proposals: int = 8  # K, in a round


@dataclass
class Ended:
    """What a loop achieved."""

    change: float = 0.0  # true change of the loss, < 0 = better
    promotions: int = 0
    harmful: int = 0  # promotions that truly made the loss worse
    passengers: int = 0  # ideas that harm, in whatever was promoted
    runs: int = 0

    def promote(self, *ideas: float) -> None:
        """Make ideas, of these true effects, the baseline together."""
        self.change += math.fsum(ideas)
        self.promotions += 1
        self.harmful += math.fsum(ideas) > 0
        self.passengers += sum(idea > 0 for idea in ideas)


def greedy(ideas: GaussianIdeas, random: Random) -> Ended:
    """Keep the best of K if it beats one fresh run of the baseline."""
    end = Ended()
    while end.runs + ideas.proposals + 1 <= ideas.budget:
        end.runs += ideas.proposals + 1
        seen, effect = _best(ideas, random)
        if seen < random.gauss(0, ideas.sigma):
            end.promote(effect)
    return end


def ratchet(ideas: GaussianIdeas, random: Random) -> Ended:
    """Keep the best of K if it beats the record."""
    end = Ended(runs=1)
    record = random.gauss(0, ideas.sigma)
    while end.runs + ideas.proposals <= ideas.budget:
        end.runs += ideas.proposals
        seen, effect = _best(ideas, random)
        if end.change + seen < record:
            record = end.change + seen
            end.promote(effect)
    return end


def ours(ideas: GaussianIdeas, random: Random, policy: Policy | None = None, rule: Rule | None = None) -> Ended:
    """The search itself; only what passed an audit counts."""
    policy, rule = policy or Policy(ideas.proposals), rule or Rule(finalists=1)
    world = _World(ideas, policy, rule, random)
    steps = Search(0, policy, ideas.sigma, world.propose).steps()
    try:
        step = next(steps)
        while True:
            step = steps.send(world.answer(step))
    except StopIteration:
        return world.end


class _World:
    """Answers a search. Every idea is new, and a stack is known by its last one."""

    def __init__(self, ideas: GaussianIdeas, policy: Policy, rule: Rule, random: Random) -> None:
        self.ideas, self.policy, self.rule, self.random = ideas, policy, rule, random
        self.truth: dict[Stack, float] = {(): 0.0}
        self.step = 0
        self.end = Ended()

    def propose(self, search: Search) -> Sequence[Stack]:
        stacks = []
        for _ in range(search.policy.proposals):
            stack = (*search.current, ("idea", str(len(self.truth))))
            self.truth[stack] = self.truth[search.current] + self.random.gauss(self.ideas.mean, self.ideas.spread)
            stacks.append(stack)
        return stacks

    def answer(self, step: Step) -> Answer:
        self.step += 1
        return self.audit(step) if isinstance(step, Audit) else self.round(step)

    def round(self, step: Round) -> Answer:
        arms = {str(i): stack for i, stack in enumerate(step.proposals)}
        truth = {CONTROL: self.truth[step.current], **{arm: self.truth[stack] for arm, stack in arms.items()}}
        end = play(compare([*arms], seed_of("simulated", self.step), 0.0), self.runs(truth))
        effects = effects_of(end) or {}
        return Answer({arms[arm]: effect for arm, effect in effects.items()}, last=self.is_last())

    def audit(self, step: Audit) -> Answer:
        truth = {CONTROL: self.truth[step.verified], "stack": self.truth[step.stack]}
        procedure = sweep_procedure(
            Contender(CONTROL, str(step.verified[-1:])), [Contender("stack", str(step.stack[-1:]))],
            within(self.rule, self.left), self.ideas.sigma, KNOWN,
        )  # fmt: skip
        conclusion = play(procedure, self.runs(truth)).arm("stack")
        if conclusion.verdict == "promote":
            tops = [step.stack[:height] for height in range(len(step.verified), len(step.stack) + 1)]
            self.end.promote(*(self.truth[after] - self.truth[before] for before, after in pairwise(tops)))
        return Answer(verdict=conclusion.verdict, last=self.is_last())

    def runs(self, truth: Mapping[str, float]) -> Callable[[Request], Outcome]:
        def outcome(request: Request) -> Outcome:
            self.end.runs += 1
            return truth[request.arm] + self.random.gauss(0, self.ideas.sigma)

        return outcome

    @property
    def left(self) -> int:
        return self.ideas.budget - self.end.runs

    def is_last(self) -> bool:
        return not room_for_a_round(self.policy, self.rule, self.left)


def _best(ideas: GaussianIdeas, random: Random) -> tuple[float, float]:
    """Of K new ideas the one that looks best: (what was seen, the true effect)."""
    effects = [random.gauss(ideas.mean, ideas.spread) for _ in range(ideas.proposals)]
    return min((effect + random.gauss(0, ideas.sigma), effect) for effect in effects)
