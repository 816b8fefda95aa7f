"""Everything that the report reads from the ledger, read once, and linked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from foundry.lab.decide.request import CONTROL, arm_name
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import BriefTrial, Decision, Generation, Noise, Refusal
from foundry.lab.ledger.sweep_row import SweepRow
from foundry.lab.report.lengths import UNKNOWN, Length, part

SELF_TESTS = ("null", "noise")
"""Kinds of sweeps whose arms are the baseline itself."""


class ArmKey(NamedTuple):
    """What names an arm among all sweeps."""

    generation: int | None  # None: it was compared with something else than a baseline
    on: str  # what a search had provisionally kept, and this arm comes on top of; "" = the baseline alone
    arm: str


class ArmCase(NamedTuple):
    """An arm as it was asked about: what differs in one of these is not compared."""

    key: ArmKey
    length: Length  # of its whole trainings
    metric: str  # that it is ranked by


class Asked(NamedTuple):
    """What a sweep asked for of one arm. What holds for all of its trials is read once, not for each of 50,000."""

    sweep: SweepRow
    case: ArmCase
    is_control: bool
    trials: list[BriefTrial]

    @classmethod
    def of(cls, sweep: SweepRow, arm: str, length: Length) -> Asked:
        is_control = arm == CONTROL or sweep.kind in SELF_TESTS
        key = ArmKey(sweep.generation, on(sweep), CONTROL if is_control else arm)
        return cls(sweep, ArmCase(key, length, sweep.metric), is_control, [])


class Snapshot:
    """What a ledger holds. Lists are oldest first."""

    def __init__(self, ledger: Ledger) -> None:
        self.generations: list[Generation] = ledger.generations()
        self.sweeps: list[SweepRow] = ledger.sweeps()
        self.decisions: list[Decision] = ledger.decisions()
        self.refusals: list[Refusal] = ledger.refusals()
        self.asked: list[Asked] = []
        self.trials: dict[str, tuple[BriefTrial, Asked]] = {}  # each once, with the first that asked for it
        trials = {sweep: list(its) for sweep, its in groupby(ledger.brief_trials(), attrgetter("sweep"))}
        for sweep in self.sweeps:
            arms: dict[str, Asked] = {}
            length = self.length(sweep)
            for trial in trials.get(sweep.id, ()):
                asked = arms.get(trial.arm) or arms.setdefault(trial.arm, Asked.of(sweep, trial.arm, length))
                asked.trials.append(trial)
                self.trials.setdefault(trial.id, (trial, asked))
            self.asked += arms.values()

    @cached_property
    def by_id(self) -> dict[str, SweepRow]:
        return {sweep.id: sweep for sweep in self.sweeps}

    @cached_property
    def compared(self) -> dict[str, SweepRow]:
        """The sweeps that compare something with the baseline of a generation, by their ids."""
        against = (sweep for sweep in self.sweeps if sweep.kind not in SELF_TESTS)
        return {sweep.id: sweep for sweep in against if sweep.generation is not None}

    @cached_property
    def promoted(self) -> dict[str, Generation]:
        """Decision -> the generation that came of it."""
        return {each.decision: each for each in self.generations if each.decision is not None}

    @cached_property
    def own_lengths(self) -> dict[int, Length]:
        """Generation -> the budget that its experiment states."""
        return {each.number: Length.own(each.experiment) for each in self.generations}

    def length(self, sweep: SweepRow) -> Length:
        """Of the whole trainings of a sweep."""
        return self._lengths[sweep.id]

    @cached_property
    def _lengths(self) -> dict[str, Length]:
        """The same budget is one object: to find it in a table of results then takes no comparison."""
        once: dict[Length, Length] = {}
        own = self.own_lengths
        stated = (
            (sweep.id, Length.asked(sweep.question, own.get(sweep.generation or 0, UNKNOWN))) for sweep in self.sweeps
        )
        return {id: once.setdefault(length, length) for id, length in stated}

    def budget_of(self, noise: Noise) -> str | None:
        """Of the runs that a spread was measured in: its group names the experiment, and a share if it was a part."""
        _, identity, share, *_ = f"{noise.group}   ".split(" ")
        length = self._controls.get(identity)
        return None if length is None else part(length, share or "1")

    @cached_property
    def _controls(self) -> dict[str, Length]:
        """The identity of a control -> the budget that it was trained with."""
        return {sweep.arms[0].identity: self.length(sweep) for sweep in self.sweeps if sweep.arms}

    def case(self, sweep: SweepRow, arm: str) -> ArmCase:
        """An arm, as a sweep asks about it."""
        return ArmCase(ArmKey(sweep.generation, on(sweep), arm), self.length(sweep), sweep.metric)

    def decision_of(self, generation: Generation) -> Decision | None:
        """That made it a baseline."""
        return self._decisions.get(generation.decision or "")

    @cached_property
    def _decisions(self) -> dict[str, Decision]:
        return {decision.id: decision for decision in self.decisions}

    def runs_of(self, decision: Decision) -> list[BriefTrial]:
        """The trainings of a decided arm that its sweep asked for, of the whole budget."""
        asked = self._asked.get((decision.sweep, decision.arm))
        return (
            [
                trial
                for trial in asked.trials
                if trial.status == "finished" and trial.role != "guard" and trial.share == "1"
            ]
            if asked
            else []
        )

    @cached_property
    def _asked(self) -> dict[tuple[str, str], Asked]:
        return {(each.sweep.id, each.case.key.arm): each for each in self.asked}

    def born(self, key: ArmKey) -> Birth:
        """How an arm came about: as its sweep planned it, or, where it was refused, as its name says."""
        return self._planned.get(key) or Birth.of([part.split() for part in key.arm.split(" + ") if part.split()], ())

    @cached_property
    def _planned(self) -> dict[ArmKey, Birth]:
        return {
            ArmKey(sweep.generation, on(sweep), each.arm): Birth.of(each.mutations, each.changes)
            for sweep in self.sweeps
            for each in sweep.arms
        }


class Birth(NamedTuple):
    """How an arm came about."""

    types: list[str]  # of its mutations, each once
    changes: list[str]  # one line per setting that differs from what it was compared with

    @classmethod
    def of(cls, mutations: Iterable[Sequence[str]], changes: Iterable[str]) -> Birth:
        return cls(list(dict.fromkeys(type for type, *_ in mutations)), list(changes))


def on(sweep: SweepRow) -> str:
    """What a search had provisionally kept when it made this sweep; "" where that was nothing."""
    return arm_name(sweep.search.kept) if sweep.search and sweep.search.kept else ""


def score(trial: BriefTrial, metric: str) -> float | None:
    """The trial's value of a metric, if it has one that is a number."""
    value = trial.metrics.get(metric)
    return value if value is not None and math.isfinite(value) else None
