"""From stacks of mutations to arms that can be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foundry.core.blame import FAULTS
from foundry.core.config import Experiment
from foundry.core.config.difference import difference
from foundry.core.config.load import from_text
from foundry.core.config.mutate import mutate
from foundry.core.contracts import Stack
from foundry.core.project import BASELINE
from foundry.lab.decide.request import CONTROL, arm_name
from foundry.lab.ledger import Generation
from foundry.lab.search.stacks import added
from foundry.lab.sweep.arms import Arm, Refused

LONG = 60
"""Characters of a name that grows with every mutation, from which it begins anew: a name may have 150."""


@dataclass
class Ground:
    """What stacks are built on: the original baseline, or the verified one where the stack goes on from there."""

    project: Path
    origin: Generation
    verified: Generation
    stack: Stack = ()  # that made `verified` of `origin`
    _experiments: dict[int, Experiment] = field(default_factory=dict)

    def experiment(self, generation: Generation) -> Experiment:
        if generation.number not in self._experiments:
            source = f"generation {generation.number}"
            self._experiments[generation.number] = from_text(
                generation.text, self.project, name=BASELINE.stem, source=source
            )
        return self._experiments[generation.number]

    def build(self, stack: Stack) -> tuple[Experiment, Experiment]:
        """(the experiment of a stack, what it was built on: its training is to be worth as much).

        Raises FoundryError for a stack that makes no valid experiment.
        """
        goes_on = stack[: len(self.stack)] == self.stack
        base = self.experiment(self.verified if goes_on else self.origin)
        experiment = base
        for type, value in stack[len(self.stack) :] if goes_on else stack:
            experiment = mutate(experiment, type, value).experiment
            if len(experiment.name) > LONG:
                experiment = experiment.model_copy(update={"name": BASELINE.stem})
        return experiment, base

    def arms(self, control: Stack, stacks: Sequence[Stack]) -> tuple[list[Arm], dict[str, Stack], list[Refused]]:
        """The control first, then an arm for each stack that makes a new experiment; the stack of each arm by name;
        and what cannot take part."""
        baseline, base = self.build(control)
        arms, refused = [Arm(CONTROL, baseline, base=base)], []
        named: dict[str, Stack] = {}
        seen = {baseline.identity: "what is kept already"}
        for stack in stacks:
            name = _unique(label(stack, control), named)
            news = added(stack, control)
            try:
                experiment, base = self.build(stack)
                same = seen.get(experiment.identity)
            except FAULTS as error:
                refused.append(Refused.because(error, name, news))
                continue
            if same:
                refused.append(Refused(name, f"it is {same}", news, invalid=False))
                continue
            seen[experiment.identity] = f"the same as {name}"
            named[name] = stack
            changes = tuple(map(str, difference(baseline, experiment)))
            arms.append(Arm(name, experiment, news, changes, base))
        return arms, named, refused


def label(stack: Stack, control: Stack) -> str:
    """How a stack is called beside its control: `activation relu2 + depth 6`, `without lr 2e-3`."""
    news, gone = added(stack, control), added(control, stack)
    parts = [arm_name(news)] * bool(news) + [f"without {arm_name(gone)}"] * bool(gone)
    return " ".join(parts) or "in another order"


def _unique(name: str, taken: Mapping[str, Stack]) -> str:
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name} ({number})", number + 1
    return unique
