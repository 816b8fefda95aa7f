"""What the ledger remembers, as plain values, but for sweeps: sweep_row.py. Nothing here imports torch.

Trial       one training run that was requested: an experiment, a seed, and what its result depends on
Attempt     one try of a worker at a trial
Wanted      why a sweep wants a trial: the arm, the role, the share of the budget
BriefTrial  both in brief, for code that looks at all of them at once
ExperimentRow      an experiment that took part, and the mutations that made it;  Refusal  one that could not
Evidence    what is known of one pair (baseline generation, candidate): the paired differences so far
Decision    promote, reject or inconclusive, with everything that it rests on
Generation  one baseline in the lineage
Noise       the spread between seeds, measured for one metric, experiment and corpus
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from typing import Any, Literal, NamedTuple, TypeAlias

from foundry.core.contracts import FoundryError
from foundry.core.digest import digest

Json: TypeAlias = Mapping[str, Any]
TrialStatus: TypeAlias = Literal["queued", "running", "finished", "failed", "cancelled"]
Role: TypeAlias = Literal["noise", "screen", "confirm", "guard", "audit"]
Verdict: TypeAlias = Literal["promote", "reject", "inconclusive"]
SweepStatus: TypeAlias = Literal["running", "interrupted", "finished"]


@dataclass(frozen=True)
class TaskSpec:
    """A task that a trial is scored on after its training, and all that its scores depend on beside the model."""

    name: str  # of its metrics: NAME.METRIC
    choice: Json = field(default_factory=dict, hash=False)  # its type, and its settings that are no defaults
    digest: str = ""  # of what it asks, as `contracts.Task.digest` has it

    @property
    def type(self) -> str:
        return str(self.choice.get("type", self.name))

    def to_json(self) -> Json | str:
        return {"name": self.name, "choice": self.choice, "digest": self.digest} if self.choice else self.name

    @classmethod
    def from_json(cls, values: Json | str) -> TaskSpec:
        """What `to_json` wrote, or the name alone, of a ledger from before tasks had settings."""
        return cls(values) if isinstance(values, str) else cls(**values)


@dataclass(frozen=True)
class Trial:
    """One training run, and all that its result depends on: the same trial again is a look-up.

    `experiment` is `Experiment.plain()` with the seed and the budget of this trial in it.
    """

    identity: str  # Experiment.identity, in which name and seed do not count and the budget does
    seed: int
    code: str  # fingerprint of the sources of core and of the distributions that the experiment uses
    data: str  # Rows.fingerprint
    experiment: Json = field(compare=False, repr=False)
    tasks: tuple[TaskSpec, ...] = ()  # that it is scored on after training

    @property
    def id(self) -> str:
        return digest(self.identity, self.seed, self.code, self.data, [task.to_json() for task in self.tasks])[:16]


@dataclass(frozen=True)
class Attempt:
    """A claim of one worker on one trial."""

    id: int
    trial: Trial
    number: int  # 1 for the first attempt at this trial
    run: str  # where its run folder is, relative to the project; the same for every attempt at a trial


@dataclass(frozen=True)
class TrialRow:
    """A trial as the ledger knows it now."""

    id: str
    trial: Trial
    status: TrialStatus
    attempts: int
    run: str
    result: Json | None = None  # result.json, and under `metrics` the value of every metric
    reason: str = ""  # why it failed
    created: float = 0.0  # seconds since the epoch
    ended: float | None = None

    def metric(self, name: str) -> float | None:
        """The value of a metric of a finished trial."""
        return None if self.result is None else self.result["metrics"].get(name)


@dataclass(frozen=True)
class Wanted:
    """Why a sweep wants a trial."""

    sweep: str
    trial: str  # Trial.id
    order: int  # the driver's: what is claimed first
    role: Role
    arm: str
    share: str  # of the budget, a fraction: "1", "1/3"


class BriefTrial(NamedTuple):
    """A trial without its experiment, and why a sweep wants it: one of 50,000."""

    sweep: str
    arm: str
    role: Role
    share: str
    id: str  # Trial.id
    seed: int
    status: TrialStatus
    attempts: int
    reason: str
    metrics: Mapping[str, float | None]  # empty where it has no result
    higher_is_better: Sequence[str]  # of those metrics
    steps: int | None  # that it was trained for; None where it has no result, or was recorded by an older Foundry
    tokens: int | None  # that it was trained on; None where it has no result
    flops: float | None
    seconds: float | None  # of training


@dataclass(frozen=True)
class ExperimentRow:
    """An experiment that took part in a sweep, and how it came about."""

    identity: str
    experiment: Json = field(repr=False)  # Experiment.plain()
    parent: str | None  # identity
    mutations: tuple[tuple[str, str], ...]  # (type, value): ("attention", "mla")
    changes: tuple[str, ...]  # one line per setting that differs from the parent
    created: float


@dataclass(frozen=True)
class Refusal:
    """An arm that a sweep could not train at all."""

    sweep: str
    arm: str
    reason: str
    changes: tuple[str, ...]
    created: float


@dataclass(frozen=True)
class Generation:
    """One baseline of the lineage."""

    number: int  # 0, 1, 2, ..., beginning behind its ancestry: a rollback is a new number with an old experiment
    identity: str
    experiment: Json = field(repr=False)  # Experiment.plain()
    kind: Literal["manual", "promoted", "rollback"]
    summary: str  # `activation relu2`, `imported from experiments/baseline.yaml`, `back to generation 2`
    previous: int | None
    decision: str | None  # Decision.id of a promoted one
    file_hash: str  # sha256 of the rendered experiments/baseline.yaml
    created: float  # seconds since the epoch
    text: str = field(default="", repr=False)  # the experiment as YAML, as its author or its mutation wrote it
    loss: float | None = None  # confirmed mean of the metric, None where it was not measured
    given_up: float = 0.0  # what non-inferior promotions since the best confirmed loss may have cost, in the metric
    ancestry: tuple[str, ...] = ()  # of a manual one: the lineage that its file told of itself, one line each
    rendered: bool = False  # whether experiments/baseline.yaml holds it, or held it once
    restores: int | None = None  # of a rollback: the generation that it went back to

    @property
    def parent(self) -> int | None:
        """The generation that its experiment comes from."""
        return self.previous if self.restores is None else self.restores


@dataclass(frozen=True)
class Terms:
    """How a pair is judged, fixed when its first difference was found."""

    sigma: float  # standard deviation of one run over seeds
    df: int  # degrees of freedom that it was estimated with
    delta: float  # the gain that is looked for


@dataclass(frozen=True)
class Evidence:
    """What is known of one pair. `differences[i]` = baseline - candidate at the pair's seed i, > 0 = better, with the
    sign turned for metrics of which more is better. -inf: the candidate's run failed, inf: the baseline's, nan: both.
    """

    generation: int
    baseline: str  # identity
    candidate: str  # identity
    metric: str
    differences: tuple[float, ...] = ()
    basis: str = ""  # digest of the code and the data that both were trained with: of others nothing is known
    terms: Terms | None = None  # None: there is no difference yet

    @property
    def pair(self) -> str:
        return digest(self.baseline, self.candidate, self.metric)[:16]

    @property
    def scored(self) -> Evidence:
        """What was known before the first run that failed, of either side or of both."""
        return replace(self, differences=tuple(takewhile(math.isfinite, self.differences)))

    def to_json(self) -> Json:
        """Plain values, for the ledger."""
        return asdict(self) | {"differences": [to_number(each) for each in self.differences]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Evidence:
        """The evidence that `to_json` wrote."""
        terms = None if values["terms"] is None else Terms(**values["terms"])
        return cls(**{**values, "differences": tuple(map(from_number, values["differences"])), "terms": terms})

    def seed(self, i: int) -> int:
        """Fresh seed i of this pair: it cannot be chosen, and screening never uses it."""
        return int(digest("confirm", self.pair, i)[:15], 16)


@dataclass(frozen=True)
class Decision:
    """The end of one comparison, with everything it rests on."""

    id: str
    sweep: str
    generation: int  # of the baseline that it was compared with
    candidate: str  # identity
    arm: str  # `activation relu2`
    metric: str
    verdict: Verdict
    reason: str  # one sentence
    effect: float | None  # median difference on fresh seeds, > 0 = better
    low: float | None  # of its interval
    high: float | None
    llr: float | None
    n: int  # pairs of runs
    rule: Json  # Rule as it was
    sigma: float | None
    created: float
    confidence: float | None = None  # that low..high holds the true difference, whenever the test was stopped

    @property
    def interval(self) -> str:
        """Where the true difference lies, in words; see `span`."""
        return span(self.low, self.high, self.confidence)


def to_number(value: float) -> float | str:
    """A number for JSON, which has neither inf nor nan: those are text."""
    return value if math.isfinite(value) else str(value)


def from_number(value: float | str) -> float:
    """The number that `to_number` wrote. All that are nan are `math.nan`, so that tuples with it are equal."""
    number = float(value)
    return math.nan if math.isnan(number) else number


def span(low: float | None, high: float | None, confidence: float | None) -> str:
    """An interval in words, with its level: `[+0.0208, +0.3166] (95 %)`. Empty where there is none."""
    if low is None or high is None:
        return ""
    return f"[{low:+.4f}, {high:+.4f}]" + ("" if confidence is None else f" ({100 * confidence:.3g} %)")


@dataclass(frozen=True)
class Noise:
    """The standard deviation of `metric` over seeds, all else equal."""

    metric: str
    context: str  # digest of (metric, experiment with its budget, data): where it holds
    sigma: float
    df: int  # degrees of freedom it was estimated with
    runs: int
    created: float = 0.0
    group: str = ""  # what was run, where it can grow: a later measurement of the same group replaces the earlier one


class StaleBaseline(FoundryError):
    """Somebody else promoted first: the baseline is no longer the generation that the decision was made against."""

    def __init__(self, expected: int | None, current: int | None) -> None:
        super().__init__(
            f"the baseline is generation {current}, no longer {expected}", "compare with that one: run the sweep again"
        )
        self.expected, self.current = expected, current


class LostClaim(Exception):
    """The lease of this attempt was taken over: its result is not wanted any more, the new holder's is."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(f"attempt {attempt.number} at trial {attempt.trial.id} was taken over")
        self.attempt = attempt
