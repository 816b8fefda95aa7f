"""Why something is the baseline, or is not: a decision with everything that it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from foundry.core.contracts import UsageError
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Decision, Generation
from foundry.lab.ledger.sweep_row import SweepRow


@dataclass(frozen=True)
class SeedPair:
    """One pair of runs on a fresh seed. The metric of a run is None where another sweep ran it."""

    seed: int
    baseline: float | None
    candidate: float | None
    difference: float  # baseline - candidate, > 0 = better


@dataclass(frozen=True)
class Why:
    """A generation, a decision, or both."""

    generation: Generation | None  # None: a decision that made none
    decision: Decision | None  # None: there was no decision, a file was edited or rolled back
    changes: tuple[str, ...]  # against the baseline, one line per setting
    pairs: tuple[SeedPair, ...]
    rivals: tuple[Decision, ...]  # what else its sweep decided
    error_rate: str  # of its sweep, in words

    @classmethod
    def of(cls, ledger: Ledger, reference: str | None = None) -> Why:
        """The reasons of a generation, or of a decision.

        Args:
            reference: a generation's number, the id of a decision or of a sweep or its beginning, or an arm. Of a sweep
                it is what decided it: the winner's decision, else the one that was nearest. None is the newest
                generation that was promoted, or else the newest one.

        Raises:
            UsageError: there is no such thing, or the sweep has decided nothing.
        """
        generation, decision = _find(ledger, reference)
        if decision is None:
            return cls(generation, None, (), (), (), "")
        config, sweep = ledger.config(decision.candidate), ledger.sweep(decision.sweep)
        conclusion = (sweep and sweep.conclusion) or {}
        control = str(conclusion.get("control", "baseline"))
        return cls(
            generation,
            decision,
            config.changes if config else (),
            tuple(_pairs(ledger, decision, sweep, control)) if sweep else (),
            tuple(rival for rival in ledger.decisions(sweep=decision.sweep) if rival.id != decision.id),
            str(conclusion.get("error_rate", "")),
        )


def _find(ledger: Ledger, reference: str | None) -> tuple[Generation | None, Decision | None]:
    generations = ledger.generations()
    made_by = {each.decision: each for each in generations if each.decision}
    if reference is None:
        promoted = [each for each in generations if each.kind == "promoted"]
        if not generations:
            raise UsageError("there is no generation yet", "`foundry sweep` makes the first one")
        reference = str((promoted or generations)[-1].number)
    for each in generations:
        if reference == str(each.number):
            return each, ledger.decision(each.decision) if each.decision else None
    decisions = ledger.decisions()
    found = [each for each in decisions if _begins(each.id, reference)]
    found = found or [each for each in decisions if each.arm == reference][-1:]
    found = found or [_nearest(ledger, each) for each in ledger.sweeps() if _begins(each.id, reference)]
    if len(found) != 1:
        problem = f"{reference!r} is the beginning of {len(found)} decisions" if found else f"there is no {reference!r}"
        raise UsageError(
            problem,
            "name a generation's number, the id of a decision or of a sweep, or an arm; `foundry lineage` and "
            "`foundry query` tell",
        )
    return made_by.get(found[0].id), found[0]


def _begins(id: str, reference: str) -> bool:
    return len(reference) >= 4 and id.startswith(reference)


def _nearest(ledger: Ledger, sweep: SweepRow) -> Decision:
    """What a sweep promoted, or would have soonest."""
    decisions = ledger.decisions(sweep=sweep.id)
    if not decisions:
        raise UsageError(
            f"sweep {sweep.id} has decided nothing: it is {sweep.status}",
            f"`foundry query what=trial sweep={sweep.id}` shows what it trained",
        )
    order = {"promote": 2, "inconclusive": 1, "reject": 0}
    return max(decisions, key=lambda each: (order[each.verdict], -math.inf if each.low is None else each.low))


def _pairs(ledger: Ledger, decision: Decision, sweep: SweepRow, control: str) -> Iterator[SeedPair]:
    identities = {each.arm: each.identity for each in sweep.arms}
    evidence = ledger.evidence_on(decision, identities.get(control, ""))
    if evidence is None:
        return
    ran: dict[tuple[str, int], Mapping[str, float]] = {
        (trial["arm"], trial["seed"]): trial["metrics"]
        for trial in ledger.tried(decision.sweep)
        if trial["role"] == "confirm" and trial["status"] == "finished"
    }
    for i, difference in enumerate(evidence.differences):
        seed = evidence.seed(i)
        baseline, candidate = (ran.get((arm, seed), {}).get(decision.metric) for arm in (control, decision.arm))
        yield SeedPair(seed, baseline, candidate, difference)
