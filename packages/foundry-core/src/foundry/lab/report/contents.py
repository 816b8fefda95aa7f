"""What the page shows, as plain data: `foundry report --json` prints it.

A difference is baseline - arm in the metric's own unit, its sign turned where more is better: above 0 is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, TypedDict

Outcome: TypeAlias = Literal[
    "promoted",  # it became a baseline
    "won",  # the decision is promote, and nobody asked to promote it, or somebody else came first
    "kept",  # a search goes on with it until an audit decides
    "inconclusive",
    "rejected",
    "screened_out",  # others did better in the screening: no decision was sought
    "described",  # by an ablation, which decides nothing
    "failed",  # its runs crashed or diverged
    "refused",  # the mutation is impossible: nothing was trained
    "open",  # not finished yet
]


Drawn: TypeAlias = Outcome | Literal["baseline"]
"""Of a run or a curve: what became of its arm, or that it is the control's."""


GroupKey: TypeAlias = tuple[str, str]
"""What may stand on one axis: (budget in words, metric)."""


class Interval(TypedDict):
    """A difference with its interval. `confirmed`: from fresh seeds; otherwise from the screening, in which the best of
    many looks better than it is."""

    metric: str
    budget: str  # that it was measured at, in words: `250 steps`
    steps: float | None  # that the arm's runs came to, in the mean; None where that was not recorded
    tokens: float | None

    effect: float
    low: float | None  # None where the noise was never measured
    high: float | None
    confidence: float | None  # that the interval holds the true difference; from fresh seeds, whenever the test stopped
    n: int  # pairs of runs; in the screening, runs of the arm
    confirmed: bool


class Gain(TypedDict):
    """The confirmed gains from the first generation to the current one, added: those in one metric."""

    metric: str
    budgets: list[str]  # that they were measured at, each once
    estimate: float  # too large on average: each comparison ended when its effect looked good
    least: float | None  # the sum of the lower ends: true if every interval holds, whenever its test stopped
    promotions: int
    n: int  # pairs of runs
    others: int  # promotions by other metrics, which are not in the sum


class GenerationEntry(TypedDict):
    number: int
    kind: Literal["manual", "promoted", "rollback"]
    summary: str
    parent: int | None  # the generation that its experiment comes from; of a rollback, the one that it restores
    undone_by: int | None  # the rollback that left it behind
    current: bool
    created: float  # seconds since the epoch
    loss: float | None
    given_up: float
    gain: Interval | None
    own_budget: str  # that its experiment states
    below_own_budget: bool | None  # whether its gain was measured at less than the budget of the baseline that it beat
    reason: str
    changes: list[str]
    ancestry: list[str]  # of a manual one: what its file told of the generations before it, one line each
    guard: str | None  # `depth=2x`: the larger scale at which the sign of the gain held
    tried: int  # arms that were compared with it


class ArmEntry(TypedDict):
    """One candidate against one generation, over all sweeps that tried it with one budget and by one metric."""

    arm: str
    on: str  # what a search had provisionally kept, and the arm comes on top of; "" = the baseline alone
    types: list[str]  # mutation types, `activation`
    generation: int
    outcome: Outcome
    difference: Interval | None
    loss: float | None  # mean metric of its runs at the largest share of the budget
    share: str  # that share: 1, 1/3
    budget: str  # what that share is: `250 steps`
    runs: int
    flops: float | None  # of one run at that share
    reason: str
    changes: list[str]
    sweep: str
    metric: str


class TrialEntry(TypedDict):
    id: str
    arm: str
    on: str
    generation: int | None  # None: it was not compared with a baseline
    sweep: str
    role: str
    share: str
    budget: str  # what that share is: `250 steps`
    seed: int
    status: str
    metric: str  # that its sweep ranks by
    loss: float | None  # its value of that metric
    also: Mapping[str, float]  # its values of the other metrics that something was ranked by
    steps: int | None
    tokens: int | None
    flops: float | None
    seconds: float | None
    attempts: int
    outcome: Drawn
    reason: str


class Curve(TypedDict):
    """The mean over the seeds of one arm with one budget."""

    arm: str
    on: str
    generation: int
    outcome: Drawn
    budget: str
    seeds: int
    flops_per_token: float | None
    tokens: list[int]
    val_loss: list[float | None]
    train_loss: list[float | None]
    expert_usage: list[float | None]  # empty where no layer has experts, see foundry.core.training.expert_load
    expert_unevenness: list[float | None]


class BaselineEntry(TypedDict):
    """What a baseline reaches itself, at the budget and in the metric of a group."""

    generation: int
    value: float
    runs: int  # of its own, whose mean that is; 0: it is what its promotion confirmed


class Group(TypedDict):
    """Runs that may be compared: of one budget, by one metric."""

    budget: str
    metric: str
    unit: str
    higher_is_better: bool
    trials: int
    smallest_decidable: float | None  # the gain that 80 % of such sweeps find
    curves: Literal["val_loss", "train_loss"] | None  # what its curves show: training loss where none was validated
    baselines: list[BaselineEntry]  # oldest first; without those that were not measured here


class KeepRate(TypedDict):
    type: str
    tried: int  # arms that were judged: those refused, described or still open are not among them
    kept: int
    low: float  # Wilson's 95 % interval of kept / tried
    high: float
    outcomes: dict[Outcome, int]


class NoiseEntry(TypedDict):
    metric: str
    context: str
    budget: str | None  # of the runs; None where no sweep tells
    sigma: float
    df: int
    runs: int
    smallest_decidable: float | None  # the gain that 80 % of sweeps find


class Errors(TypedDict):
    """How often chance alone may have promoted something."""

    sweeps: int  # that ended with a decision
    alpha: float | None  # the rate that each was run at; None where it was not always the same
    expected: float  # at most: the sum of the rates
    null_sweeps: int  # in which the arms were the baseline itself
    null_promotions: int


class Contents(TypedDict):
    project: str
    created: float
    metric: str  # of the first group
    unit: str
    higher_is_better: bool
    groups: list[Group]  # the one with most trainings of a whole budget first
    generations: list[GenerationEntry]  # oldest first
    gain: Gain | None  # None: no promotion stands
    arms: list[ArmEntry]  # of each group best first, by the lower end of the interval; behind them those without one
    trials: list[TrialEntry]  # in the order in which they were asked for
    curves: list[Curve]
    keep_rates: list[KeepRate]  # the last is of all types together
    noise: list[NoiseEntry]  # most runs first
    errors: Errors
