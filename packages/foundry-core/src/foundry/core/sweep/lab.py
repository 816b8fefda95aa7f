"""Where sweeps happen: a project's ledger, the workers that train for it, and whoever watches.

    with open_lab(project, jobs=2) as lab:
        result = lab.sweep(Question(stacks=((("attention", "mha"),),)), promote=True)

One laboratory serves one sweep after the other, so that its workers stay warm.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from foundry.core.config.load import BASELINE, from_text
from foundry.core.contracts import FoundryError, InvalidExperiment, UsageError
from foundry.core.ledger.ledger import Ledger
from foundry.core.ledger.records import Decision, Generation, Noise, StaleBaseline, digest
from foundry.core.promotion import current_baseline, promote
from foundry.core.registry import registry
from foundry.core.statistics.noise import pooled
from foundry.core.sweep.arms import Refused
from foundry.core.sweep.conclusion import Conclusion
from foundry.core.sweep.driver import Driver, Reporter, Silent
from foundry.core.sweep.executors.site import Executor, Site
from foundry.core.sweep.plan import Plan, Trials, informed, make_plan, noise_context
from foundry.core.sweep.question import Question
from foundry.core.sweep.request import CONTROL, Answers, Failure, Request
from foundry.core.training.signals import StopRequest

NOISE_SEEDS = 8
"""Runs of the baseline from which the noise is estimated where nobody has measured it: 7 degrees of freedom."""


@dataclass(frozen=True)
class SweepResult:
    """What came of a sweep."""

    sweep: str
    plan: Plan
    conclusion: Conclusion
    decisions: tuple[Decision, ...]  # of the arms, in their order
    refused: tuple[Refused, ...]
    promoted: Generation | None = None


@dataclass
class Lab:
    """Made by `open_lab`."""

    project: Path
    ledger: Ledger
    jobs: int
    executor: Executor
    reporter: Reporter
    stop: StopRequest

    def sweep(self, question: Question, *, promote: bool = False) -> SweepResult:
        """Train, compare, decide; with `promote`, make the winner the baseline.

        What the ledger knows is not trained again, so the same question about the same baseline is answered at once.
        If somebody else promotes meanwhile, the arms are compared with the new baseline.

        Raises:
            Stopped: somebody asked for it; the same call goes on from there.
            InvalidExperiment: no arm can be trained.
        """
        if not question.stacks:
            raise UsageError(
                "there is nothing to compare with the baseline", "for example: foundry sweep attention mha"
            )
        while True:
            generation, baseline = current_baseline(self.ledger, self.project)
            plan, refused = make_plan(generation, baseline, question, self.jobs)
            try:
                return self.run(plan, refused, promote=promote)
            except StaleBaseline as stale:
                self.reporter.note(f"{stale}; comparing with that one")

    def resume(self, *, promote: bool = False) -> SweepResult:
        """Go on with the sweep that was interrupted last.

        Raises:
            UsageError: there is none.
        """
        interrupted = [row for row in self.ledger.sweeps("interrupted") if row.spec["kind"] == "sweep"]
        if not interrupted:
            raise UsageError("no sweep was interrupted", "`foundry runs` shows what there is")
        question = Question.from_json(max(interrupted, key=lambda row: row.created).spec["question"])
        return self.sweep(question, promote=promote)

    def run(self, plan: Plan, refused: Sequence[Refused] = (), *, promote: bool = False) -> SweepResult:
        """The sweep of a plan, from wherever it was left.

        Raises:
            StaleBaseline: the plan's generation is not the baseline any more.
        """
        if plan.arms:
            plan = self.with_noise(plan)
        sweep = self.begin(plan, refused)
        row = self.ledger.sweep(sweep)
        assert row is not None
        plan = Plan.from_json(row.spec)
        if row.conclusion is None:
            conclusion = self.drive(sweep, plan) if plan.arms else _nothing(plan)
            self.keep(sweep, plan, conclusion)
        else:
            conclusion = Conclusion.from_json(row.conclusion)
        decisions = tuple(self.ledger.decisions(sweep=sweep))
        result = SweepResult(sweep, plan, conclusion, decisions, tuple(refused))
        return replace(result, promoted=self.promote(result)) if promote and conclusion.winner else result

    def begin(self, plan: Plan, refused: Sequence[Refused]) -> str:
        """Write down what is about to be compared, and what can't be.

        Raises:
            InvalidExperiment: nothing can be.
        """
        sweep = self.ledger.start_sweep(plan.to_json())
        parent = plan.baseline.identity
        for entry in plan.entries:
            ancestor = None if entry is plan.baseline else parent
            self.ledger.record_config(entry.identity, entry.experiment, ancestor, entry.mutations, entry.changes)
        for each in refused:
            self.ledger.record_refusal(sweep, each.name, each.reason)
            self.reporter.note(f"{each.name} is left out: {each.reason}")
        if not plan.arms and any(each.invalid for each in refused):
            self.keep(sweep, plan, _nothing(plan))
            raise InvalidExperiment("no arm of this sweep can be trained", "\n".join(e.reason for e in refused))
        return sweep

    def drive(self, sweep: str, plan: Plan) -> Conclusion:
        self.reporter.planned(sweep, plan)
        return self._driver(sweep, plan).drive(plan.procedure())

    def keep(self, sweep: str, plan: Plan, conclusion: Conclusion) -> None:
        """Write down what was decided, and what was learnt on the way."""
        metric, rule = plan.question.rule.metric, plan.question.rule.to_json()
        control = plan.entry(conclusion.control).identity
        for arm in conclusion.arms:
            entry, judged = plan.entry(arm.arm), arm.judgement
            self.ledger.decide(
                Decision(
                    id=digest(sweep, arm.arm)[:16],
                    sweep=sweep,
                    generation=plan.generation,
                    candidate=entry.identity,
                    arm=arm.arm,
                    metric=metric,
                    verdict=arm.verdict,
                    reason=arm.reason,
                    effect=judged.effect if judged else None,
                    low=judged.low if judged else None,
                    high=judged.high if judged else None,
                    llr=judged.llr if judged else None,
                    n=judged.n if judged else 0,
                    rule=rule,
                    sigma=plan.sigma,
                    created=0.0,
                )
            )
            if arm.differences:
                known = self.ledger.evidence(plan.generation, control, entry.identity, metric)
                self.ledger.add_evidence(replace(known, differences=arm.differences))
        for share, scores in conclusion.controls.items():
            if len(scores) > 1:
                context = noise_context(metric, plan.baseline.experiment, plan.data, Fraction(share))
                self._record_noise(metric, context, f"control {control} {share}", scores)
        self.ledger.finish_sweep(sweep, conclusion.to_json())

    def promote(self, result: SweepResult) -> Generation:
        """Make the winner the baseline, unless another one has become it.

        Raises:
            StaleBaseline: it has.
        """
        winner = result.conclusion.winner
        assert winner is not None
        decision = next(each for each in result.decisions if each.arm == winner)
        experiment = from_text(result.plan.entry(winner).text, self.project, name=BASELINE.stem, source=winner)
        loss, given_up = result.conclusion.arm(winner).loss, result.conclusion.given_up
        return promote(self.ledger, self.project, decision, experiment, loss=loss, given_up=given_up)

    # ---- the noise -------------------------------------------------------------------------------------------------

    def with_noise(self, plan: Plan) -> Plan:
        """The plan with what is known; the noise is measured first if nobody ever did for this metric, budget and
        data."""
        known = informed(plan, self.ledger)
        if known.sigma is None:
            self.reporter.note(
                f"the noise of {plan.question.rule.metric} between seeds is not known here: "
                f"{NOISE_SEEDS} runs of the baseline measure it first"
            )
            self.measure_noise(plan)
            known = informed(plan, self.ledger)
        return known

    def noise(self, question: Question, seeds: int = NOISE_SEEDS) -> Noise:
        """Measure the spread of the metric between seeds, with the baseline.

        Args:
            question: of which only the metric, the budget and the tasks count.
        """
        generation, baseline = current_baseline(self.ledger, self.project)
        plan, _ = make_plan(generation, baseline, replace(question, stacks=()), self.jobs)
        return self.measure_noise(plan, seeds)

    def measure_noise(self, plan: Plan, seeds: int = NOISE_SEEDS) -> Noise:
        """Train the plan's baseline with `seeds` seeds, of which those of an earlier call are known already."""
        rule = plan.question.rule
        question = replace(plan.question, stacks=(), lr_factors=(), rule=type(rule)(metric=rule.metric))
        alone = replace(plan, kind="noise", question=question, entries=plan.entries[:1], sigma=None, df=0, evidence={})
        sweep = self.ledger.start_sweep({**alone.to_json(), "seeds": seeds})
        self.reporter.planned(sweep, alone)
        scores = self._driver(sweep, alone).drive(_same_with_seeds(alone, seeds))
        noise = self._record_noise(rule.metric, plan.context, f"noise {plan.baseline.identity}", scores)
        self.ledger.finish_sweep(sweep, {"scores": list(scores), "sigma": noise.sigma, "df": noise.df})
        return noise

    def _record_noise(self, metric: str, context: str, group: str, scores: Sequence[float]) -> Noise:
        sigma, df = pooled([scores])
        noise = Noise(metric, context, sigma, df, len(scores), group=group)
        self.ledger.record_noise(noise)
        return noise

    def _driver(self, sweep: str, plan: Plan) -> Driver:
        return Driver(
            ledger=self.ledger,
            sweep=sweep,
            trial_of=Trials(plan, self.project).of,
            metric=plan.question.rule.metric,
            setting=plan.setting,
            executor=self.executor,
            reporter=self.reporter,
            stop=lambda: self.stop.requested,
        )


@contextmanager
def open_lab(
    project: Path,
    *,
    executor: str = "local",
    jobs: int = 1,
    trial_seconds: float | None = None,
    reporter: Reporter | None = None,
) -> Iterator[Lab]:
    """A project's laboratory. Workers start when there is something to train, and end with the context.

    Args:
        executor: a variant of the slot of that name.
        jobs: trials at a time.
        trial_seconds: a trial that takes longer has failed.

    Raises:
        UsageError: there is no such executor.
    """
    reporter = reporter or Silent()
    variant = registry(project).variant("executor", executor)
    with Ledger.open(project, note=reporter.note) as ledger:
        site = Site(project.resolve(), ledger, jobs, trial_seconds, reporter.note)
        with StopRequest() as stop, variant.load()(variant.params(), site) as workers:
            yield Lab(site.project, ledger, jobs, workers, reporter, stop)


def run_sweep(project: Path, question: Question, *, promote: bool = False, jobs: int = 1, **lab: object) -> SweepResult:
    """One sweep in a laboratory of its own; see `open_lab` and `Lab.sweep`."""
    with open_lab(project, jobs=jobs, **lab) as opened:  # type: ignore[arg-type]
        return opened.sweep(question, promote=promote)


def _same_with_seeds(plan: Plan, seeds: int) -> Generator[Sequence[Request], Answers, tuple[float, ...]]:
    """The baseline with seeds of its own; its scores."""
    requests = [
        Request(CONTROL, int(digest("noise", plan.baseline.identity, i)[:15], 16), "noise") for i in range(seeds)
    ]
    answers = yield requests
    scores = tuple(answer for request in requests if not isinstance(answer := answers[request], Failure))
    if len(scores) < 2:
        reasons = [answer.reason for answer in answers.values() if isinstance(answer, Failure)]
        raise FoundryError(f"the noise cannot be measured: {reasons[0] if reasons else 'one run says nothing of it'}")
    return scores


def _nothing(plan: Plan) -> Conclusion:
    """The end of a sweep in which nobody competes."""
    return Conclusion((), None, CONTROL, "", 0, Fraction(0), plan.given_up, {})
