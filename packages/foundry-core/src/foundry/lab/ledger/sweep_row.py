"""A sweep as the ledger has it: what is stored as JSON, typed. Nothing here imports torch.

SweepRow    some arms that are compared with the baseline of one generation, and how;  BriefArm  one of them
SearchStep  where a sweep belongs in a search
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from foundry.core.contracts import Stack
from foundry.lab.ledger.records import Json, SweepStatus


class BriefArm(NamedTuple):
    """An arm of a sweep without its experiment."""

    arm: str
    identity: str  # of the experiment
    mutations: Stack
    changes: tuple[str, ...]  # what differs from the control, one line per setting

    @classmethod
    def from_json(cls, values: Json) -> BriefArm:
        """Of an entry of the outline."""
        mutations = stack_from_json(values.get("mutations", ()))
        return cls(values["arm"], values["identity"], mutations, tuple(values.get("changes", ())))


@dataclass(frozen=True)
class SearchStep:
    """Where a sweep belongs in a search."""

    search: str  # the sweep that is the search
    step: int  # 1 for the first
    origin: int  # the generation that stacks start from
    closing: bool  # whether there was no room for another round
    arms: Mapping[str, Stack] = field(default_factory=dict, hash=False)  # the stack of each, on top of the origin
    proposals: tuple[Stack, ...] = ()  # of a round
    kept: Stack = ()  # of a round: what its arms come on top of, beside what is verified
    least: float = 0.0  # of a round: by how much the best must be better to be kept, in the metric

    def to_json(self) -> Json:
        step = {"id": self.search, "step": self.step, "origin": self.origin, "closing": self.closing, "arms": self.arms}
        of_round = {"proposals": self.proposals, "kept": self.kept, "least": self.least}
        return step | of_round if self.proposals else step

    @classmethod
    def from_json(cls, values: Json) -> SearchStep:
        """The step that `to_json` wrote."""
        return cls(
            *(values["id"], values["step"], values["origin"], values["closing"]),
            arms={arm: stack_from_json(stack) for arm, stack in values["arms"].items()},
            proposals=tuple(map(stack_from_json, values.get("proposals", ()))),
            kept=stack_from_json(values.get("kept", ())),
            least=values.get("least", 0.0),
        )


def stack_from_json(mutations: Iterable[Sequence[str]]) -> Stack:
    """JSON has lists where a stack has tuples."""
    return tuple((type, value) for type, value in mutations)


@dataclass(frozen=True)
class SweepRow:
    """A sweep as the ledger knows it now. Its spec is read only when an experiment of it is asked for: what is
    typed here comes from the outline, which costs nothing."""

    id: str
    status: SweepStatus  # interrupted: unfinished, and none of the processes that drove it is alive
    spec: Json  # all that its procedure depends on, as it was when the sweep started first
    created: float
    conclusion: Json | None = None
    outline: Json = field(default_factory=dict, compare=False, repr=False)  # the spec without the experiments

    @property
    def kind(self) -> str:
        """sweep, ablation, noise, null, compare; of a search: evolve, round, audit."""
        return str(self.outline.get("kind", "sweep"))

    @property
    def generation(self) -> int | None:
        """That its arms are compared with. None: they are compared with something else than a baseline."""
        return self.outline.get("generation")

    @property
    def sigma(self) -> float | None:
        """Standard deviation of one run over seeds, in the metric, as it was known when the sweep started."""
        return self.outline.get("sigma")

    @property
    def df(self) -> int:
        """Degrees of freedom that `sigma` was estimated with."""
        return int(self.outline.get("df", 0))

    @property
    def question(self) -> Json:
        """What it was asked, as `Question.of` reads it; {} of a search, which has a quest."""
        return self.outline.get("question", {})

    @property
    def asked_by(self) -> Json | None:
        """Of a measurement of the noise, the question that needed it."""
        return self.outline.get("asked_by")

    @property
    def quest(self) -> Json | None:
        """Of a search, as `SearchSettings.from_json` reads it."""
        return self.outline.get("quest")

    @property
    def rule(self) -> Json:
        """The rule that judges it, as `Rule.from_json` reads it; {} if it judges nothing."""
        return self.question.get("rule", {})

    @property
    def metric(self) -> str:
        """What it ranks by."""
        return str(self.rule.get("metric", "val_loss"))

    @property
    def unit(self) -> str | None:
        """Of the metric. None: an older Foundry did not write it down."""
        return self.outline.get("unit")

    @property
    def higher_is_better(self) -> bool | None:
        """Of the metric. None: an older Foundry did not write it down."""
        return self.outline.get("higher_is_better")

    @cached_property
    def search(self) -> SearchStep | None:
        """Where it belongs in a search, if it does."""
        step = self.outline.get("search")
        return None if step is None else SearchStep.from_json(step)

    @cached_property
    def arms(self) -> tuple[BriefArm, ...]:
        """The control first."""
        return tuple(map(BriefArm.from_json, self.outline.get("entries", ())))

    @cached_property
    def flops(self) -> Mapping[str, float | None]:
        """Of one training of each arm; None: it is counted in seconds."""
        arms = self.outline.get("entries", ())
        if not all("flops" in arm for arm in arms):  # an older Foundry outlined the sweep
            arms = self.spec["entries"]
        return {arm["arm"]: arm["flops"] for arm in arms}
