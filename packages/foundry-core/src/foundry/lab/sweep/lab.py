"""Where sweeps happen: a project's ledger, the workers that train for it, and the reporter.

    with open_lab(project, jobs=2) as lab:
        result = lab.sweep(Question(stacks=((("attention", "mha"),),)), promote=True)

One laboratory serves one sweep after the other, so that its workers stay warm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from foundry.core.blame import explained
from foundry.core.code import foreign_variants
from foundry.core.config import Experiment
from foundry.core.config.load import from_text
from foundry.core.contracts import Executor, InvalidExperiment, PluginError, Stopped, UsageError
from foundry.core.project import BASELINE
from foundry.core.registry import registry
from foundry.core.system.processes import Process
from foundry.core.system.signals import StopRequest
from foundry.lab.baseline import current_baseline, promote
from foundry.lab.decide.conclusion import Conclusion, nothing
from foundry.lab.decide.noise import NOISE_SEEDS, Spread, noise_procedure
from foundry.lab.decide.procedure import Procedure, at_once
from foundry.lab.decide.request import Answers, Request
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger import Generation, Ledger, Noise, StaleBaseline, SweepRow
from foundry.lab.ledger.lease import Beat, Holder
from foundry.lab.ledger.records import Json
from foundry.lab.sweep.arms import Refused
from foundry.lab.sweep.dry_run import foreseen
from foundry.lab.sweep.measured_noise import MeasuredNoise
from foundry.lab.sweep.null import null_plan, procedure_of
from foundry.lab.sweep.plan import Plan, informed, make_plan, remarks_on
from foundry.lab.sweep.question import Question
from foundry.lab.sweep.reporter import Silent, SweepReporter
from foundry.lab.sweep.result import SweepResult, decisions_of, evidence_of, noise_of
from foundry.lab.sweep.workload import PlannedWork
from foundry.lab.trials.costs import Costs
from foundry.lab.trials.driver import Driver
from foundry.lab.trials.executors.site import WORKER, LedgerSite
from foundry.lab.trials.heartbeat import Heartbeat
from foundry.lab.trials.setting import Setting
from foundry.lab.trials.warm_start import drop_checkpoints

WAIT_SECONDS = 0.5
"""Between two looks at a driver that may be dead."""


class SweepEnd(Protocol):
    """What a sweep of some kind ends with."""

    def to_json(self) -> Json:
        """Plain values, for the ledger."""


Ending = TypeVar("Ending", bound=SweepEnd)


@dataclass
class Lab:
    """Made by `open_lab`."""

    project: Path
    ledger: Ledger
    jobs: int
    executor: Executor
    reporter: SweepReporter
    stop: StopRequest
    retry: bool = False  # what failed before is trained again, and what followed from it decided again

    def sweep(self, question: Question, *, promote: bool = False) -> SweepResult:
        """Train, compare, decide; with `promote`, make the winner the baseline.

        What the ledger knows is not trained again, so the same question about the same baseline is answered at once.
        If another process promotes meanwhile, the arms are compared with the new baseline.

        Raises:
            Stopped: the process was asked to stop; the same call resumes.
            InvalidExperiment: no arm can be trained.
        """
        if not question.stacks:
            raise UsageError(
                "there is nothing to compare with the baseline", "for example: foundry sweep attention mha"
            )
        while True:
            plan, refused, remarks = self.plan(question)
            for remark in remarks:
                self.reporter.note(remark)
            try:
                return self.run(plan, refused, promote=promote)
            except StaleBaseline as stale:
                self.reporter.note(f"{stale}; comparing with that one")

    def plan(self, question: Question) -> tuple[Plan, list[Refused], list[str]]:
        """What a question comes to for the baseline that holds now; which arms cannot take part; and what to know of
        the others before they are trained.

        Raises:
            UsageError: no such mutation type, value, task, metric or cost axis.
            FoundryError: the baseline itself cannot be built.
        """
        generation, baseline = current_baseline(self.ledger, self.project)
        plan, refused = make_plan(generation, baseline, question, self.jobs, self.count)
        return plan, refused, remarks_on(plan, question, baseline)

    def dry_run(self, question: Question) -> dict[str, Any]:
        """What `sweep` would train: see `foreseen`. Trains nothing."""
        plan, refused, remarks = self.plan(question)
        return foreseen(
            informed(plan, self.ledger, retry=self.retry), refused, remarks, project=self.project, jobs=self.jobs
        )

    def null_sweeps(self, question: Question, *, arms: int, rounds: int) -> Iterator[Conclusion]:
        """The conclusion of each of so many sweeps in which every arm is the baseline itself: a winner is a false one.
        Rounds that the ledger knows are not trained again, and nothing is promoted.

        Args:
            question: by which rule, for how long.
        """
        plan = null_plan(self.with_noise(self.of_baseline(question)), arms)
        for number in range(rounds):
            row = self.begin(replace(plan, round=number))
            yield self.conclude(row, procedure_of, Conclusion.from_json)

    def resume(self, *, promote: bool = False) -> SweepResult:
        """Go on with the sweep that was interrupted last; with `promote`, also with one that has found a winner, which
        nobody made the baseline. Of a driver that cannot be seen from here, and was heard of lately, a sign is waited
        for, until its lease has ended.

        Raises:
            UsageError: there is none.
            Stopped: the process was asked to stop.
        """
        left = [row for row in self.ledger.sweeps() if row.kind in ("sweep", "noise") and row.status != "finished"]
        unpromoted = self._unpromoted()
        rows = sorted(left + (unpromoted if promote else []), key=lambda row: row.created, reverse=True)
        driven = ""
        for row in rows:
            question = Question.behind(row)
            if not question.stacks:
                continue
            driver = None if row.status == "finished" else self._driver_of(row.id)
            if driver is None:
                return self.sweep(question, promote=promote)
            driven = driven or f": {row.id} is driven by {driver}"
        hint = "name what to compare: foundry sweep attention mha"
        if driven:
            hint = "end that process first, or wait for it"
        elif unpromoted:
            hint = "the last one has found a winner: foundry sweep --resume --promote"
        raise UsageError(f"no sweep was interrupted{driven}", hint)

    def _driver_of(self, sweep: str) -> Holder | None:
        """Who certainly drives a sweep: it can be seen, or gives a sign while it is waited for."""
        heard: dict[Process, Beat] = {}
        while drivers := self.ledger.drivers(sweep):
            for driver in drivers:
                if driver.process.is_visible() or heard.get(driver.process, driver.beat) != driver.beat:
                    return driver
            if not heard:
                self.reporter.note(f"sweep {sweep}: {self.ledger.waiting_for(drivers[0])}")
            heard = {driver.process: driver.beat for driver in drivers} | heard
            if self.stop.requested:
                raise Stopped("stopped while it waited for a driver", "run the same command again")
            time.sleep(WAIT_SECONDS)
        return None

    def _unpromoted(self) -> list[SweepRow]:
        """The sweeps whose winner is better than the baseline that still holds."""
        newest = self.ledger.baseline()
        return [
            row
            for row in self.ledger.sweeps("finished")
            if row.kind == "sweep" and newest is not None and row.generation == newest.number
            if row.conclusion is not None and Conclusion.from_json(row.conclusion).winner is not None
        ]

    def run(self, plan: Plan, refused: Sequence[Refused] = (), *, promote: bool = False) -> SweepResult:
        """The sweep of a plan, from wherever it was left. One that ended undecided goes on with what is known by now.

        Raises:
            StaleBaseline: the plan's generation is not the baseline any more.
        """
        if plan.arms:
            plan = self.with_noise(plan)
        row = self.newest(plan, is_open=lambda conclusion: Conclusion.from_json(conclusion).is_open)

        def procedure(plan: Plan) -> Procedure:
            return plan.procedure() if plan.arms else at_once(nothing(plan.given_up))

        self.conclude(row, procedure, Conclusion.from_json, refused)
        result = self.result(row.id, refused)
        return replace(result, promoted=self.promote(result)) if promote and result.conclusion.winner else result

    def begin(self, plan: Plan, **also: Any) -> SweepRow:
        """The sweep of a plan as the ledger has it, or has it from now on. `also` makes it another sweep."""
        sweep = self.ledger.start_sweep({**plan.to_json(), **also})
        row = self.ledger.sweep(sweep)
        assert row is not None
        return row

    def newest(
        self, plan: Plan, *, is_open: Callable[[Json], bool] = lambda conclusion: False, **also: Any
    ) -> SweepRow:
        """The last round of a plan. Another one begins, with what is known by now, where that has ended open, or where
        trials failed in it that are to be tried again."""
        while True:
            row = self.begin(plan, **also)
            following = replace(plan, round=plan.round + 1)
            if row.conclusion is None:
                return row
            goes_on = is_open(row.conclusion) or (self.retry and self.ledger.trials(row.id, status="failed"))
            if not goes_on and not self.ledger.knows_sweep({**following.to_json(), **also}):
                return row
            plan = informed(following, self.ledger, retry=self.retry)

    def conclude(
        self,
        row: SweepRow,
        procedure: Callable[[Plan], Generator[Sequence[Request], Answers, Ending]],
        known: Callable[[Json], Ending] | None,
        refused: Sequence[Refused] = (),
    ) -> Ending:
        """How a sweep ends that this process has begun, or begun again: every kind of sweep is run here. What takes
        part is written down, then the procedure is driven to its end, and what it ended with is kept. Whatever happens,
        the sweep is left, and another process may go on with it.

        Args:
            procedure: of the plan as it was when the sweep began first.
            known: the ending, of what the ledger has of one that has ended already; None: it is driven once more, and
                the ledger answers.
        """
        plan = Plan.from_json(row.spec)
        try:
            self.refuse(row.id, plan, refused)
            if row.conclusion is not None and known is not None:
                return known(row.conclusion)
            self.reporter.planned(row.id, plan)
            ending = self.driver(row.id, plan).drive(procedure(plan))
            self.keep(row.id, plan, ending)
            return ending
        finally:
            self.ledger.leave_sweep(row.id)

    def refuse(self, sweep: str, plan: Plan, refused: Sequence[Refused]) -> None:
        """Write down which experiments take part, and which cannot, with what differs in them.

        Raises:
            InvalidExperiment, PluginError: none can.
        """
        for entry in plan.entries:
            parent = None if entry is plan.baseline or plan.kind == "compare" else plan.baseline.identity
            self.ledger.record_config(entry.identity, entry.experiment, parent, entry.mutations, entry.changes)
        for each in refused:
            self.ledger.record_refusal(sweep, each.name, each.reason, each.changes)
            self.reporter.note(f"{each.name} is left out: {each.reason}")
        if not plan.arms and any(each.invalid for each in refused):
            self.keep(sweep, plan, nothing(plan.given_up))
            kind = PluginError if all(each.faulty for each in refused) else InvalidExperiment
            raise kind("no arm of this sweep can be trained", "\n".join(map(str, refused)))

    def result(self, sweep: str, refused: Sequence[Refused] = ()) -> SweepResult:
        """What came of a finished sweep."""
        row = self.ledger.sweep(sweep)
        if row is None or row.conclusion is None:
            raise UsageError(f"no sweep {sweep} has finished", "`foundry sweep --resume` goes on with the last one")
        decisions = tuple(self.ledger.decisions(sweep=sweep))
        return SweepResult(
            sweep, Plan.from_json(row.spec), Conclusion.from_json(row.conclusion), decisions, tuple(refused)
        )

    def keep(self, sweep: str, plan: Plan, ending: SweepEnd) -> None:
        """Write down how a sweep ended: what was decided, what was learnt on the way. Nobody looks into its runs
        again."""
        if isinstance(ending, Conclusion) and plan.kind != "null":  # of which every decision would be a false one
            for decision in decisions_of(sweep, plan, ending):
                self.ledger.decide(decision)
            for evidence in evidence_of(plan, ending):
                self.ledger.add_evidence(evidence, anew=self.retry)
            for noise in noise_of(plan, ending):
                self.ledger.record_noise(noise)
        for row in self.ledger.trials(sweep, status="finished"):  # what a rung, or who was killed, had left there
            drop_checkpoints(self.project / row.run)
        self.ledger.finish_sweep(sweep, ending.to_json())

    def promote(self, result: SweepResult) -> Generation:
        """Make the winner the baseline, unless another one has become it.

        Raises:
            StaleBaseline: it has.
        """
        winner = result.conclusion.winner
        assert winner is not None
        decision = next(each for each in result.decisions if each.arm == winner)
        experiment = from_text(result.plan.entry(winner).text, self.project, name=BASELINE.stem, source=winner)
        if sets := result.plan.question.sets:
            self.reporter.note(f"{winner} was judged with {', '.join(sets)}, which the new baseline does not take over")
        score, given_up = result.conclusion.arm(winner).loss, result.conclusion.given_up
        loss = None if score is None else result.plan.told(score)
        return promote(self.ledger, self.project, decision, experiment, loss=loss, given_up=given_up)

    def count(self, experiment: Experiment, setting: Setting) -> Costs:
        """What a model costs. That runs its code, which may end the process that it runs in: a plugin's runs where
        trials do, if the executor offers it."""
        apart = getattr(self.executor, "count", None) if foreign_variants(experiment) else None
        try:
            return Costs.of(experiment, apart and (lambda each: apart(each, setting, lambda: self.stop.requested)))
        except KeyboardInterrupt as error:  # a signal is noted here, and raises nothing: this is a variant's
            raise explained(error) from error

    # ---- the noise -------------------------------------------------------------------------------------------------

    def with_noise(self, plan: Plan) -> Plan:
        """The plan with what is known; the noise is measured first if it never was for this baseline with this
        metric, budget and data."""
        known = informed(plan, self.ledger, retry=self.retry)
        if known.sigma is None:
            self.reporter.note(
                f"the noise of {plan.question.rule.metric} between seeds is not known here: "
                f"{NOISE_SEEDS} runs of the baseline measure it first"
            )
            self.measure_noise(plan)
            known = informed(plan, self.ledger, retry=self.retry)
        return known

    def noise(self, question: Question, seeds: int = NOISE_SEEDS) -> MeasuredNoise:
        """Measure the spread of the metric between seeds, with the baseline. Of the question the metric, the budget and
        the tasks say what is measured, and the rule what can be found with that."""
        plan = self.of_baseline(question)
        spread, known = self.measure_noise(plan, seeds), self.ledger.noise(plan.context)
        assert known is not None
        return MeasuredNoise(plan, spread, known)

    def of_baseline(self, question: Question) -> Plan:
        """The plan of a question's baseline, without arms."""
        return self.plan(replace(question, stacks=(), lr_factors=()))[0]

    def measure_noise(self, plan: Plan, seeds: int = NOISE_SEEDS) -> Spread:
        """Train the plan's baseline with `seeds` seeds, of which those of an earlier call are known already."""
        metric, identity = plan.question.rule.metric, plan.baseline.identity
        question = replace(plan.question, stacks=(), lr_factors=(), rule=Rule(metric=metric))
        alone = replace(plan, kind="noise", question=question, entries=plan.entries[:1], sigma=None, df=0, evidence={})
        row = self.newest(alone, seeds=seeds, asked_by=plan.question.to_json() if plan.arms else None)
        spread = self.conclude(row, lambda plan: noise_procedure(identity, seeds), Spread.from_json)
        # Last: once the noise is known, no process comes back to finish this sweep.
        runs = len(spread.scores)
        self.ledger.record_noise(Noise(metric, plan.context, spread.sigma, spread.df, runs, group=f"noise {identity}"))
        return spread

    def driver(self, sweep: str, plan: Plan) -> Driver:
        """What answers a procedure about the entries of `plan`."""
        return Driver(
            ledger=self.ledger,
            sweep=sweep,
            trials=PlannedWork(plan, self.project),
            metric=plan.question.rule.metric,
            setting=plan.setting,
            executor=self.executor,
            reporter=self.reporter,
            stop=lambda: self.stop.requested,
            retry=self.retry,
        )


@contextmanager
def open_lab(
    project: Path,
    *,
    executor: str = "local",
    jobs: int = 1,
    trial_seconds: float | None = None,
    retry: bool = False,
    reporter: SweepReporter | None = None,
) -> Iterator[Lab]:
    """A project's laboratory. Workers start when there is something to train, and end with the context.

    Args:
        executor: a variant of the slot of that name.
        jobs: trials at a time.
        trial_seconds: a trial that takes longer has failed.
        retry: have trials that failed before trained again: there is more time now, or more memory.

    Raises:
        UsageError: there is no such executor.
    """
    reporter = reporter or Silent()
    variant = registry(project).variant("executor", executor)
    with Ledger.open(project, note=reporter.note) as ledger, Heartbeat(ledger, ledger.renew_sweeps):
        site = LedgerSite(project.resolve(), jobs, WORKER, trial_seconds, reporter.note, ledger=ledger)
        with StopRequest() as stop, variant.load()(variant.params(), site) as workers:
            yield Lab(site.project, ledger, jobs, workers, reporter, stop, retry)
