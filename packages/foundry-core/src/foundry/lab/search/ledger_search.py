"""One search with its ledger and its laboratory: what the pure search asks for becomes a plan, is trained, and is
written down; see `evolve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias

from foundry.core.contracts import InvalidData, InvalidExperiment, PluginError, Stack
from foundry.core.garbage import no_garbage
from foundry.lab.baseline import current_baseline
from foundry.lab.decide.conclusion import Conclusion, nothing
from foundry.lab.decide.noise import NOISE_SEEDS
from foundry.lab.decide.procedure import Procedure, at_once
from foundry.lab.decide.race import BaselineFailed
from foundry.lab.ledger import Generation, StaleBaseline, SweepRow
from foundry.lab.ledger.sweep_row import SearchStep
from foundry.lab.search.history import earlier
from foundry.lab.search.ideas import Ideas
from foundry.lab.search.policy import Answer, Audit, Round, Search, Step
from foundry.lab.search.proposed_arms import Ground
from foundry.lab.search.rounds import best_of, compare, effects_of, seed_of
from foundry.lab.search.settings import (
    Audited,
    Evolved,
    Limits,
    SearchSettings,
    Spent,
    check_room,
    room_for_a_round,
    within,
)
from foundry.lab.search.stacks import added, keep_rates
from foundry.lab.sweep.arms import Refused
from foundry.lab.sweep.lab import Lab
from foundry.lab.sweep.plan import Plan, plan_of
from foundry.lab.sweep.question import Question

Tell: TypeAlias = Callable[[Mapping[str, Any]], None]
EXHAUSTED = "nothing is left to propose"


@dataclass(frozen=True)
class Start:
    """From where a search began, which stays when it goes on."""

    search: str  # its id among the sweeps
    generation: int
    sigma: float  # of that generation over seeds, in the metric
    df: int

    @classmethod
    def of(cls, search: SweepRow) -> Start:
        """That of a search which the ledger knows."""
        assert search.generation is not None
        return cls(search.id, search.generation, search.sigma or 0.0, search.df)

    def spec(self, settings: SearchSettings) -> dict[str, Any]:
        """What the ledger keeps of the search."""
        began = {"generation": self.generation, "sigma": self.sigma, "df": self.df}
        return {"schema_version": 1, "kind": "evolve", "quest": settings.to_json(), **began}


class LedgerSearch:
    """Made by `foundry.lab.search.evolve`."""

    def __init__(self, lab: Lab, settings: SearchSettings, limits: Limits, tell: Tell, start: Start) -> None:
        self.lab, self.settings, self.limits, self.tell, self.id = lab, settings, limits, tell, start.search
        self.spent = Spent()
        self.df = start.df
        origin = self.generation(start.generation)
        self.measured = {origin.number}  # generations whose noise is known, or was measured for an audit
        self.ground = Ground(lab.project, origin, origin)
        with no_garbage():
            self.listed = lab.ledger.sweeps()  # as they were when this call began
            tried = earlier(self.listed, self.id)
        self.search = Search(origin.number, settings.policy, start.sigma, self.propose, tried)
        self.known_before = len(self.search.history)
        steps = ((row.search, row) for row in self.listed)
        self.recorded = {place.step: row for place, row in steps if place is not None and place.search == self.id}
        self.number = 0  # steps that were taken
        self.closing = False  # whether there is no room for another round
        self.audits: list[Audited] = []
        self.trials: set[str] = set()
        self.ideas = Ideas(lab.project, settings, lab.reporter.note)

    # ---- Step by step ----------------------------------------------------------------------------------------------

    def run(self) -> Evolved:
        """To the end, or to a limit."""
        steps = self.search.steps()
        try:
            step = next(steps)
            while self.has_room(step):
                step = steps.send(self.take(step))
        except StopIteration:
            if not self.closing:
                return self.evolved(EXHAUSTED)
        return self.evolved(f"{self.limits} is reached")

    def preview(self) -> dict[str, Any]:
        """The facts of the next step that has not ended."""
        steps = self.search.steps()
        try:
            step = next(steps)
            while self.has_ended(self.number + 1):
                step = steps.send(self.take(step))
        except StopIteration:
            return {"search": self.id, "steps": self.number, "next": None, "why": str(self.limits) or EXHAUSTED}
        plan, _, refused = self.plan(step)
        runs = len(plan.entries) if isinstance(step, Round) else 2 * plan.question.rule.n_max
        known = self.search.sigma and (isinstance(step, Round) or plan.generation in self.measured)
        return {
            "search": self.id,
            "steps": self.number,
            "next": plan.kind,
            "generation": plan.generation,
            "arms": [
                {"arm": entry.arm, "changes": list(entry.changes), "flops": entry.flops, "budget": entry.budget}
                for entry in plan.entries
            ],
            "refused": [{"arm": each.name, "reason": each.reason} for each in refused],
            "space": self.ideas.values(self.search.current, self.ground),
            "noise_trials": 0 if known else NOISE_SEEDS,
            "trials": runs,
            "flops": sum(entry.flops or 0.0 for entry in plan.entries) * runs / len(plan.entries) or None,
        }

    def take(self, step: Step) -> Answer:
        """Have one step trained, or look it up."""
        row = self.recorded.get(self.number + 1)
        refused: list[Refused] = []
        if row is None:
            plan, place, refused = self.plan(step)
            known = self.lab.with_noise(plan) if plan.kind == "audit" and plan.arms else plan
            row = self.lab.begin(known, search=place.to_json())
        self.check(row, step)
        self.number += 1
        was_known = row.conclusion is not None
        end = self.conclude(row, refused) if row.conclusion is None else Conclusion.from_json(row.conclusion)
        self.count(row, was_known)
        answer, facts = self.after_round(row, end) if isinstance(step, Round) else self.after_audit(row, step, end)
        if not was_known:
            facts["left_out"] = [{"arm": each.name, "reason": each.reason} for each in refused]
            spent = {"trials": self.spent.trials, "flops": self.spent.flops or None, "seconds": self.spent.seconds}
            self.tell({"event": row.kind, "step": self.number, **facts, **spent})
        return self.look_around(answer)

    def conclude(self, row: SweepRow, refused: Sequence[Refused]) -> Conclusion:
        """Train what a step compares, from wherever it was left."""
        place = _place(row)

        def procedure(plan: Plan) -> Procedure:
            if not plan.arms:
                return at_once(nothing(plan.given_up))
            if plan.kind == "round":
                return compare(plan.arms, seed_of(self.id, place.step), place.least, plan.given_up)
            return _audit(plan)

        self.lab.ledger.start_sweep(row.spec)  # this process drives it
        try:
            self.lab.conclude(row, procedure, None, refused)
        except (InvalidExperiment, PluginError):
            if row.arms[1:]:
                raise  # else that is the conclusion: no proposal makes a valid experiment
        return self.lab.result(row.id).conclusion

    def after_round(self, row: SweepRow, end: Conclusion) -> tuple[Answer, dict[str, Any]]:
        effects, place = effects_of(end), _place(row)
        kept = best_of(effects or {}, place.least)
        facts = {
            "proposals": [
                {"arm": arm.arm, "effect": (effects or {}).get(arm.arm), "reason": arm.reason} for arm in end.arms
            ],
            "kept": kept,
            "effect": effects[kept] if effects and kept else None,
        }
        if effects is None:
            return Answer(effects=None), facts
        return Answer({place.arms[arm]: effect for arm, effect in effects.items()}), facts

    def after_audit(self, row: SweepRow, step: Audit, end: Conclusion) -> tuple[Answer, dict[str, Any]]:
        became = self.promoted(row.id) if end.winner else None
        arm = next(iter(end.arms), None)
        audited = Audited.of(added(step.stack, step.verified), arm, became.number if became else None)
        self.audits.append(audited)
        if became:
            self.ground = replace(self.ground, verified=became, stack=step.stack)
        facts = {**asdict(audited), "stack": audited.arm}
        return Answer(verdict=audited.verdict, effect=audited.effect), facts

    def promoted(self, audit: str) -> Generation | None:
        """The generation that an audit's winner became. None: another promotion came first."""
        if before := self.promotion_of(audit):
            return before
        try:
            return self.lab.promote(self.lab.result(audit))
        except StaleBaseline as stale:
            self.lab.reporter.note(f"{stale}; the stack is judged again on that one")
            return None

    def look_around(self, answer: Answer) -> Answer:
        """The answer with what else there is to know: is the baseline still ours, and is there room for more? The next
        step in the ledger tells how it was when this one ended for the first time."""
        if following := self.recorded.get(self.number + 1):
            place = _place(following)
            self.closing, moved = place.closing, place.origin if place.origin != self.search.origin else None
        else:
            generation, _ = current_baseline(self.lab.ledger, self.lab.project)
            moved = generation.number if generation.number != self.ground.verified.number else None
            self.closing = not self.room_for_a_round
        if moved is not None:
            baseline = self.generation(moved)
            self.ground = Ground(self.lab.project, baseline, baseline)
        return replace(answer, moved=moved, last=self.closing)

    # ---- What a step comes to --------------------------------------------------------------------------------------

    def plan(self, step: Step) -> tuple[Plan, SearchStep, list[Refused]]:
        """(what is compared, where it belongs, what cannot take part)."""
        rule, place = self.settings.rule, SearchStep(self.id, self.number + 1, step.origin, self.closing)
        if isinstance(step, Round):
            kind, control, stacks = "round", step.current, step.proposals
            kept = added(step.current, self.search.verified)
            place = replace(place, proposals=stacks, kept=kept, least=self.search.least)
        else:
            kind, control, stacks, rule = "audit", step.verified, (step.stack,), within(rule, self.left)
        arms, named, refused = self.ground.arms(control, stacks)
        question, origin = self.settings.question(stacks, rule), self.ground.experiment(self.ground.origin)
        plan, unbuilt = plan_of(self.ground.verified, arms, question, self.lab.jobs, self.lab.count, kind, origin)
        if isinstance(step, Round):
            plan = replace(plan, sigma=self.search.sigma, df=self.df)
        return plan, replace(place, arms=named), refused + unbuilt

    def propose(self, search: Search) -> Sequence[Stack]:
        """What was proposed in the next step, as the ledger has it, or the proposer's next ideas."""
        if row := self.recorded.get(self.number + 1):
            return _place(row).proposals
        return self.ideas.of(search, self.ground, self.number + 1)

    # ---- Where it stands -------------------------------------------------------------------------------------------

    @property
    def left(self) -> float:
        """Trainings for which the limits leave room, once the noise of the verified baseline is known."""
        ahead = 0 if self.ground.verified.number in self.measured else NOISE_SEEDS
        return self.limits.left(self.spent) - ahead

    @property
    def room_for_a_round(self) -> bool:
        return room_for_a_round(self.settings.policy, self.settings.rule, self.left)

    def has_room(self, step: Step) -> bool:
        """Whether a step is known, or can be afforded.

        Raises:
            UsageError: the limits are too tight to begin at all.
        """
        if self.number + 1 in self.recorded:
            return True
        fits = self.room_for_a_round if isinstance(step, Round) else self.left >= 2
        if not fits and self.number == 0:
            check_room(self.settings.policy, self.settings.rule, self.limits, self.left)
        self.closing |= not fits
        return fits

    def has_ended(self, number: int) -> bool:
        """Whether a step is in the ledger with everything that follows from it."""
        row = self.recorded.get(number)
        if row is None or row.conclusion is None:
            return False
        waits = row.kind == "audit" and row.conclusion["winner"] and not self.promotion_of(row.id)
        return not waits or number + 1 in self.recorded

    def check(self, row: SweepRow, step: Step) -> None:
        """Raises InvalidData where the ledger holds another step than the search takes now."""
        expected = ("round", step.proposals) if isinstance(step, Round) else ("audit", (step.stack,))
        place = _place(row)
        if (row.kind, Question.of(row).stacks) != expected or place.origin != step.origin:
            raise InvalidData(
                f"step {place.step} of search {self.id} is not the one that the ledger has",
                "another version of Foundry took it; another --seed begins a new search",
            )

    def count(self, row: SweepRow, was_known: bool) -> None:
        """Add what a step has cost, and the noise that was measured for it: the first audit against a generation does
        that."""
        sweeps = [row.id]
        if row.kind == "audit" and row.generation is not None:
            self.measured.add(row.generation)
            listed = self.listed if was_known else self.lab.ledger.sweeps()
            sweeps += [each.id for each in listed if each.asked_by == row.question]
        for wanted in (each for sweep in sweeps for each in self.lab.ledger.wanted(sweep)):
            if wanted.trial not in self.trials:
                self.trials.add(wanted.trial)
                flops = (row.flops[wanted.arm] or 0.0) * Fraction(wanted.share)
                self.spent.add(1, float(flops), now=not was_known)

    def generation(self, number: int) -> Generation:
        return next(each for each in self.lab.ledger.generations() if each.number == number)

    def promotion_of(self, sweep: str) -> Generation | None:
        """The generation that a sweep's winner became."""
        decisions = {each.id for each in self.lab.ledger.decisions(sweep=sweep)}
        return next((each for each in self.lab.ledger.generations() if each.decision in decisions), None)

    def evolved(self, why: str) -> Evolved:
        own = self.search.history[self.known_before :]
        judged = [each for each in own if each.fate in ("kept", "passed_over", "failed")]
        baseline, _ = current_baseline(self.lab.ledger, self.lab.project)
        return Evolved(
            search=self.id,
            settings=self.settings,
            why=why,
            generation=baseline.number,
            loss=baseline.loss,
            rounds=self.search.rounds,
            tried=len(judged),
            kept=sum(each.fate == "kept" for each in judged),
            keep_rates=keep_rates(judged),
            audits=tuple(self.audits),
            unverified=added(self.search.current, self.search.verified),
            spent=self.spent,
        )


def _place(row: SweepRow) -> SearchStep:
    assert row.search is not None  # of whatever a search has begun
    return row.search


def _audit(plan: Plan) -> Procedure:
    """A sweep of one arm, which is undecided where its control fails."""
    try:
        return (yield from plan.procedure())
    except BaselineFailed as failure:
        return nothing(plan.given_up, {plan.arms[0]: failure.message})
