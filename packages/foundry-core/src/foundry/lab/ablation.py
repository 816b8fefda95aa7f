"""An ablation: every combination of some axes, each trained with the full budget and the same few seeds. It describes,
where a sweep decides: no arm is dropped early, none is promoted, and an effect may be luck."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foundry.core.contracts import UsageError
from foundry.lab.decide.noise import pooled
from foundry.lab.decide.request import Answers, Contender, Failure, Request
from foundry.lab.sweep.arms import Refused
from foundry.lab.sweep.lab import Lab
from foundry.lab.sweep.plan import Plan, PlannedArm
from foundry.lab.sweep.question import Question


@dataclass(frozen=True)
class Cell:
    """One combination."""

    entry: PlannedArm
    scores: tuple[float, ...]  # of the seeds, in the metric
    failures: tuple[str, ...]

    @property
    def mean(self) -> float | None:
        return math.fsum(self.scores) / len(self.scores) if self.scores else None


@dataclass(frozen=True)
class Ablation:
    """All of them, the baseline first."""

    sweep: str
    metric: str
    higher_is_better: bool
    cells: tuple[Cell, ...]
    refused: tuple[Refused, ...]
    sigma: float | None  # over seeds, pooled over the cells; None with one seed

    @classmethod
    def run(cls, lab: Lab, question: Question, seeds: int) -> Ablation:
        """Train every arm of the question, and the baseline, with `seeds` seeds. What is known is not trained again.

        Raises:
            UsageError: the question names no arms.
            Stopped: the process was asked to stop; the same call resumes.
        """
        if not question.stacks:
            raise UsageError("there is nothing to ablate", "for example: foundry ablate --axis attention=mha,gqa_2kv")
        plan, refused, remarks = lab.plan(question)
        for remark in remarks:
            lab.reporter.note(remark)
        row = lab.newest(replace(plan, kind="ablation"), seeds=seeds)

        def procedure(plan: Plan) -> Generator[Sequence[Request], Answers, Ablation]:
            cells = yield from _all(plan, seeds)
            groups = [cell.scores for cell in cells if len(cell.scores) > 1]
            sigma = pooled(groups)[0] if groups else None
            return cls(row.id, plan.question.rule.metric, plan.higher_is_better, cells, tuple(refused), sigma)

        return lab.conclude(row, procedure, None, refused)

    def effect(self, cell: Cell) -> float | None:
        """How much better than the baseline, > 0 = better, at the same seeds."""
        return None if cell.mean is None else self.gain(cell.mean)

    def gain(self, score: float) -> float | None:
        """How much better a score is than the baseline's mean."""
        base = self.cells[0].mean
        if base is None:
            return None
        return score - base if self.higher_is_better else base - score

    def ranked(self) -> list[Cell]:
        """The best first, those without a score last."""
        sign = -1 if self.higher_is_better else 1
        return sorted(self.cells, key=lambda cell: math.inf if cell.mean is None else sign * cell.mean)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per cell: a CSV's."""
        axes = list(dict.fromkeys(type for cell in self.cells for type, _ in cell.entry.mutations))
        return [
            {
                "arm": cell.entry.arm,
                **{axis: dict(cell.entry.mutations).get(axis, "") for axis in axes},
                "runs": len(cell.scores),
                self.metric: cell.mean,
                "effect": self.effect(cell),
                "scores": " ".join(map(str, cell.scores)),
                "flops": cell.entry.flops,
                **cell.entry.costs,
                "failures": "; ".join(cell.failures),
            }
            for cell in self.cells
        ]

    def to_json(self) -> dict[str, Any]:
        refused = [{"arm": each.name, "reason": each.reason} for each in self.refused]
        return {
            "sweep": self.sweep,
            "metric": self.metric,
            "sigma": self.sigma,
            "cells": self.rows(),
            "refused": refused,
        }


def _all(plan: Plan, seeds: int) -> Generator[Sequence[Request], Answers, tuple[Cell, ...]]:
    """Every entry with the seeds that a sweep screens with, so that the two share trials."""
    numbers = [Contender("", "").seed("screen", plan.baseline.identity, i) for i in range(seeds)]
    wanted = {entry.arm: [Request(entry.arm, seed, "screen") for seed in numbers] for entry in plan.entries}
    answers = yield [wanted[entry.arm][i] for i in range(seeds) for entry in plan.entries]
    cells = []
    for entry in plan.entries:
        outcomes = [answers[request] for request in wanted[entry.arm]]
        scores = tuple(plan.told(outcome) for outcome in outcomes if not isinstance(outcome, Failure))
        cells.append(Cell(entry, scores, tuple(each.reason for each in outcomes if isinstance(each, Failure))))
    return tuple(cells)
