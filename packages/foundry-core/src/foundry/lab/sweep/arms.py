"""The arms of a sweep: the baseline with one mutation each, or, of several axes, with one of each.

    attention: mha, gqa_2kv                                  -> two arms
    attention: mha, gqa_2kv  x  norm: rmsnorm, layernorm     -> four

What cannot be trained, or is the baseline itself, is refused with its reason, and the sweep goes on with the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from foundry.core.blame import FAULTS, explained
from foundry.core.config import Experiment
from foundry.core.config.difference import difference
from foundry.core.config.mutate import mutate
from foundry.core.contracts import Stack, UsageError
from foundry.lab.decide.request import CONTROL, arm_name
from foundry.lab.trials.failure import is_of_code, is_the_machines


@dataclass(frozen=True)
class Axis:
    """One mutation type and the values of it that are tried."""

    type: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """`attention=mha,gqa_2kv`; a comma within brackets is its value's. Raises UsageError for anything else."""
        type, equals, values = text.partition("=")
        each = tuple(value.strip() for value in _apart(values) if value.strip())
        if not (equals and type.strip() and each):
            raise UsageError(f"--axis {text}: is not TYPE=VALUE,VALUE", "for example: --axis attention=mha,gqa_2kv")
        return cls(type.strip(), each)

    @staticmethod
    def grid(axes: Sequence[Axis]) -> tuple[Stack, ...]:
        """Every combination of one value per axis, as mutations; the last axis varies fastest. Raises UsageError where
        two axes are of one type."""
        types = [axis.type for axis in axes]
        if twice := [type for type in types if types.count(type) > 1]:
            raise UsageError(f"{twice[0]} is named by two axes", "join their values")
        return tuple(tuple(zip(types, each, strict=True)) for each in product(*(axis.values for axis in axes)))


@dataclass(frozen=True)
class Arm:
    """One contender."""

    name: str  # `attention mla`, `attention mla + norm layernorm`; CONTROL for the baseline
    experiment: Experiment = field(repr=False)
    mutations: Stack = ()
    changes: tuple[str, ...] = ()  # what differs from the baseline, one line per setting
    base: Experiment | None = field(default=None, repr=False)  # whose budget its own is worth; None: the control's


@dataclass(frozen=True)
class Refused:
    """An arm that will not be trained."""

    name: str
    reason: str  # in one line, without the name
    mutations: Stack
    invalid: bool  # it makes no experiment that can be trained; else it makes one that already exists
    changes: tuple[str, ...] = ()  # what differs from the baseline, where it makes an experiment
    faulty: bool = False  # a plugin's code fails in it

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"

    @classmethod
    def because(cls, error: BaseException, name: str, mutations: Stack, changes: tuple[str, ...] = ()) -> Refused:
        """Of an arm that cannot be made or counted, with what the error says and advises.

        Raises:
            FoundryError: the error itself, where the machine is to blame.
        """
        if is_the_machines(error):
            raise error
        failure = explained(error)
        lines = [line.strip() for line in (*failure.message.splitlines(), *failure.hint.splitlines())]
        reason = "; ".join(line for line in lines if line).replace(":; ", ": ")
        # What `mutate` begins with: the arm is named beside the reason wherever that is shown.
        reason = re.sub(rf"^{re.escape(name)}(: | on \S+ )", "", reason)
        return cls(name, reason, mutations, invalid=True, changes=changes, faulty=is_of_code(failure))


def _apart(values: str) -> Iterator[str]:
    """`[0.9,0.95],[0.9,0.99]` -> `[0.9,0.95]`, `[0.9,0.99]`."""
    begin = depth = 0
    for at, character in enumerate(values):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth <= 0:
            yield values[begin:at]
            begin = at + 1
    yield values[begin:]


def build_arms(baseline: Experiment, wanted: Sequence[Stack]) -> tuple[list[Arm], list[Refused]]:
    """The control first, then an arm for each list of mutations that makes a new experiment.

    Raises:
        UsageError: there is no such mutation type or value: a slip of the pen, told before anything is trained.
    """
    control = Arm(CONTROL, baseline)
    arms, refused = [control], []
    named = {baseline.identity: "the baseline itself"}
    for mutations in wanted:
        name = arm_name(mutations)
        try:
            arm = _mutated(control, name, mutations)
            same = named.get(arm.experiment.identity)  # which asks its params, and may fail as well
        except UsageError:
            raise
        except FAULTS as error:
            refused.append(Refused.because(error, name, mutations))
            continue
        if same:
            refused.append(Refused(name, f"it is {same}", mutations, invalid=False))
            continue
        named[arm.experiment.identity] = f"the same as {name}"
        arms.append(arm)
    return arms, refused


def _mutated(base: Arm, name: str, mutations: Stack) -> Arm:
    experiment = base.experiment
    for type, value in mutations:
        experiment = mutate(experiment, type, value).experiment
    changes = tuple(map(str, difference(base.experiment, experiment)))
    return Arm(name, experiment, mutations, changes)
