"""A question about one baseline, made concrete: every arm's experiment and budget, what they compute on, and what is
known of the noise. It is frozen when its sweep starts, so that a sweep that goes on next week is still the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from foundry.core.blame import FAULTS, explained
from foundry.core.config import Experiment, from_plain
from foundry.core.config.budget import Budget
from foundry.core.config.mutate import mutate
from foundry.core.config.remarks import remarks
from foundry.core.config.write_yaml import number, to_yaml
from foundry.core.contracts import FoundryError, Stack, UsageError
from foundry.core.digest import digest
from foundry.lab.decide.procedure import Procedure, sweep_procedure
from foundry.lab.decide.request import CONTROL, Contender
from foundry.lab.ledger.ledger import Ledger
from foundry.lab.ledger.records import Evidence, Generation, Json, TaskSpec
from foundry.lab.ledger.sweep_row import stack_from_json
from foundry.lab.sweep.arms import Arm, Refused, build_arms
from foundry.lab.sweep.question import Question
from foundry.lab.sweep.sets import BUDGET_KEYS, as_trained, keys_of
from foundry.lab.trials.costs import COST_AXES, Costs, Count, equalised
from foundry.lab.trials.failure import is_of_code, reason_of
from foundry.lab.trials.fingerprint import data_fingerprint, task_spec, trial_code
from foundry.lab.trials.scores import COMPARES_TOKENIZERS, metric_asked, tasks_asked
from foundry.lab.trials.setting import Setting


@dataclass(frozen=True)
class PlannedArm:
    """One arm of a plan."""

    arm: str
    family: str  # arms that differ only in the learning rate; the arm's own name where there is no grid of them
    mutations: Stack
    changes: tuple[str, ...]
    identity: str  # of `experiment`
    experiment: Json = field(repr=False)  # Experiment.plain(), with the sweep's budget
    text: str = field(repr=False)  # YAML with the baseline's own budget: what would be promoted
    budget: str = ""  # in words, where it is not the baseline's
    flops: float | None = None  # of one training; None: it is counted in seconds
    costs: Mapping[str, float] = field(default_factory=dict)
    code: str = ""  # fingerprint of what trains it


@dataclass(frozen=True)
class Plan:
    """A sweep before its first trial. The first entry is the baseline's."""

    question: Question
    generation: int
    entries: tuple[PlannedArm, ...]
    setting: Setting
    code: str
    data: str
    given_up: float = 0.0
    sigma: float | None = None  # over seeds, of the metric; None: not measured yet
    df: int = 0
    evidence: Mapping[tuple[str, str], Evidence] = field(default_factory=dict)  # identities: (control, candidate) ->
    kind: str = "sweep"
    tasks: tuple[TaskSpec, ...] = ()  # that every trial is scored on
    unit: str = ""  # of the metric
    higher_is_better: bool = False  # of the metric; scores have their sign turned then
    round: int = 0  # how often this question has ended undecided before: each time there is more evidence

    @property
    def baseline(self) -> PlannedArm:
        return self.entries[0]

    @property
    def arms(self) -> list[str]:
        """The names of the contenders."""
        return [entry.arm for entry in self.entries[1:]]

    def entry(self, arm: str) -> PlannedArm:
        return next(entry for entry in self.entries if entry.arm == arm)

    @cached_property
    def context(self) -> str:
        """Where the noise of this sweep holds."""
        return noise_context(self.question.rule.metric, self.baseline.identity, self.judged_on)

    def told(self, score: float) -> float:
        """A score as procedures have it, of which less is better, with the metric's own sign."""
        return -score if self.higher_is_better else score

    @cached_property
    def judged_on(self) -> str:
        """What scores are measured on: the data; and where a task decides, what it asks, with its settings."""
        name = self.question.rule.metric.rpartition(".")[0]
        asked = [task.to_json() for task in self.tasks if task.name == name]
        return digest(self.data, asked) if asked else self.data

    def basis(self, control: PlannedArm, entry: PlannedArm) -> str:
        """Of the evidence on a pair: a variant whose source was mended is judged anew."""
        return digest(control.code, entry.code, self.judged_on)[:16]

    def contender(self, entry: PlannedArm) -> Contender:
        axis = self.question.rule.cost
        gain = self.baseline.costs[axis] / entry.costs[axis] if axis and entry.costs[axis] else 1.0
        return Contender(entry.arm, entry.identity, entry.family, gain)

    def procedure(self) -> Procedure:
        """What this sweep trains, in which order, and what follows."""
        assert self.sigma is not None
        baseline, *others = map(self.contender, self.entries)
        return sweep_procedure(
            baseline,
            others,
            self.question.rule,
            self.sigma,
            self.df,
            evidence=self.evidence,
            given_up=self.given_up,
        )

    def to_json(self) -> dict[str, Any]:
        """The sweep's spec in the ledger."""
        return {
            "schema_version": 1,
            "kind": self.kind,
            "round": self.round,
            "question": self.question.to_json(),
            "generation": self.generation,
            "entries": [asdict(entry) for entry in self.entries],
            "setting": asdict(self.setting),
            "code": self.code,
            "data": self.data,
            "given_up": self.given_up,
            "sigma": self.sigma,
            "df": self.df,
            "tasks": [task.to_json() for task in self.tasks],
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "evidence": [seen.to_json() for seen in self.evidence.values()],
        }

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote."""
        values = {each.name: spec[each.name] for each in fields(cls) if each.name in spec}
        entries = tuple(
            PlannedArm(
                **{**entry, "mutations": stack_from_json(entry["mutations"]), "changes": tuple(entry["changes"])}
            )
            for entry in values["entries"]
        )
        evidence = {(seen["baseline"], seen["candidate"]): Evidence.from_json(seen) for seen in values["evidence"]}
        question, setting = Question.from_json(values["question"]), Setting(**values["setting"])
        tasks = tuple(map(TaskSpec.from_json, spec.get("tasks", question.tasks)))
        typed = {"question": question, "entries": entries, "setting": setting, "evidence": evidence, "tasks": tasks}
        return cls(**{**values, **typed})


def make_plan(
    generation: Generation, baseline: Experiment, question: Question, jobs: int, count: Count
) -> tuple[Plan, list[Refused]]:
    """What `question` comes to for this baseline on this machine, and the arms that cannot take part.

    Args:
        count: the costs of an experiment; where it fails, the arm is refused.

    Raises:
        UsageError: no such mutation type, value, task, metric or cost axis.
        FoundryError: the baseline itself cannot be built.
    """
    check_question(question, baseline)
    arms, refused = build_arms(baseline, question.stacks)
    known = baseline.registry.metric(question.rule.metric)
    if known is not None and known.per_token and any(_spells_otherwise(arm.experiment, baseline) for arm in arms):
        # Nats per token of two tokenizers mean different things, bits per byte the same.
        question = replace(question, rule=replace(question.rule, metric=COMPARES_TOKENIZERS))
    plan, uncounted = plan_of(generation, arms, question, jobs, count)
    return plan, refused + uncounted


def remarks_on(plan: Plan, question: Question, baseline: Experiment) -> list[str]:
    """What to know of the plan for `question` before it is trained; of its arms, `ARM, ARM: REMARK`, once for all that
    share it."""
    metric, arms = plan.question.rule.metric, dict[str, list[str]]()
    baseline = as_trained(baseline, baseline, question.sets)
    cut_alike = metric != COMPARES_TOKENIZERS or question.rule.metric == metric
    of_all = [] if cut_alike else [f"the arms differ in their tokenizer, so {metric} decides"]
    least = plan.question.rule.least_pairs
    if plan.kind in ("sweep", "compare") and plan.question.rule.n_max < least:
        of_all.append(f"a decision that one is better takes {least} pairs at least, and this asks for fewer")
    for entry in plan.entries[1:]:
        experiment = from_plain(entry.experiment, project=baseline.project, registry=baseline.registry)
        for remark in _remarks(baseline, experiment) if entry.arm == entry.family else ():
            arms.setdefault(remark, []).append(entry.arm)
    return of_all + [f"{', '.join(names)}: {remark}" for remark, names in arms.items()]


def _remarks(baseline: Experiment, experiment: Experiment) -> list[str]:
    try:
        return remarks(baseline, experiment)
    except FAULTS as error:  # what is only to be said is no reason to end a sweep
        return [f"its remarks cannot be had: {reason_of(error)}"]


def plan_of(
    generation: Generation | None,
    arms: Sequence[Arm],
    question: Question,
    jobs: int,
    count: Count,
    kind: str = "sweep",
    yardstick: Experiment | None = None,
) -> tuple[Plan, list[Refused]]:
    """The plan for arms that are made already, the control first, and those of them that cannot be built. Without a
    generation, it is not the baseline's.

    Args:
        yardstick: whose steps and tokens the question's budget counts; by default the control's.

    Raises:
        UsageError: a budget in seconds, for trials that share a device; or a `--set` that names nothing.
        FoundryError: the control itself cannot be built.
    """
    sets, bare = question.sets, arms[0].experiment
    control = as_trained(bare, bare, sets)
    asked = tasks_asked(control, question.tasks)
    metric = metric_asked(question.rule.metric, question.tasks, asked)
    question, known = replace(question, rule=replace(question.rule, metric=metric)), control.registry.metric(metric)
    tasks = tuple(task_spec(control, task) for task in asked)
    setting = Setting.of(control, jobs, [arm.experiment for arm in arms])
    scale = TrainedAt(question, yardstick or bare, lambda experiment: count(experiment, setting))
    identities = {arm.experiment.identity for arm in arms}
    entries: list[PlannedArm] = []
    refused: list[Refused] = []
    for arm in arms:
        try:
            family = [arm, *_at_other_rates(arm, question.lr_factors, identities)]
            entries += [scale.entry(each, arm, arm.base or bare, tasks) for each in family]
        except FAULTS as error:
            if arm is arms[0]:
                raise not_built("the baseline itself" if arm.name == CONTROL else arm.name, error) from error
            refused.append(Refused.because(error, arm.name, arm.mutations, arm.changes))
    budgeted = from_plain(entries[0].experiment, project=control.project, registry=control.registry)
    if Budget.of(budgeted).name == "seconds" and jobs > setting.devices():
        raise UsageError(
            f"a budget in seconds, and {jobs} trials at a time on {setting.devices()} {setting.device}: they would "
            "slow each other down",
            "use --budget with steps, tokens or flops, or fewer --jobs",
        )
    plan = Plan(
        question=question,
        generation=generation.number if generation else 0,
        entries=tuple(entries),
        setting=setting,
        code=digest([entry.code for entry in entries]),
        data=data_fingerprint(budgeted),
        given_up=generation.given_up if generation else 0.0,
        kind=kind,
        tasks=tasks,
        unit=known.unit if known else "",
        higher_is_better=known is not None and known.higher_is_better,
    )
    return plan, refused


def informed(plan: Plan, ledger: Ledger, *, retry: bool = False) -> Plan:
    """The plan with what the ledger knows by now of its noise and its pairs.

    Args:
        retry: what failed is trained again: of a pair counts what was known before its first failure.
    """
    noise = ledger.noise(plan.context)
    evidence = {}
    controls = [entry for entry in plan.entries if entry.family == CONTROL]
    for control in controls:
        for entry in plan.entries[1:]:
            seen = ledger.evidence(
                *(plan.generation, control.identity, entry.identity, plan.question.rule.metric),
                basis=plan.basis(control, entry),
            )
            if seen.differences or seen.terms is not None:
                evidence[control.identity, entry.identity] = seen.scored if retry else seen
    sigma, df = (noise.sigma, noise.df) if noise else (None, 0)
    return replace(plan, sigma=sigma, df=df, evidence=evidence)


def noise_context(metric: str, identity: str, data: str, share: Fraction = Fraction(1)) -> str:
    """The name of what a standard deviation over seeds depends on: the metric, the experiment (its identity has the
    budget in it), the data, and the share of the budget. Another baseline may be as good and ten times as noisy."""
    return digest(metric, identity, data, str(share))[:16]


# --------------------------------------------------------------------------------------------------------------------


def check_question(question: Question, baseline: Experiment) -> None:
    metric_asked(question.rule.metric, question.tasks, tasks_asked(baseline, question.tasks))
    if question.rule.cost and question.rule.cost not in COST_AXES:
        raise UsageError(f"{question.rule.cost!r} is not a cost", f"one of {', '.join(COST_AXES)}")
    held = keys_of(question.sets)
    if question.budget and (twice := held & BUDGET_KEYS):
        raise UsageError(f"--budget and --set {min(twice)} both say how long to train", "leave one of them out")
    if question.lr_factors and "training.learning_rate" in held:
        raise UsageError(
            "--lr-grid and --set training.learning_rate both say the learning rate", "leave one of them out"
        )


def _spells_otherwise(one: Experiment, other: Experiment) -> bool:
    return one.plain()["data"]["tokenizer"] != other.plain()["data"]["tokenizer"]


def not_built(name: str, error: BaseException) -> FoundryError:
    """Without a control, or one of two that are compared, there is nothing to train: in words, whose fault it is."""
    failure = explained(error)
    if is_of_code(failure):
        failure = type(failure)(f"{name} cannot be built: {failure.message}", failure.hint)
    return failure


def _at_other_rates(arm: Arm, factors: Sequence[float], identities: set[str]) -> Iterator[Arm]:
    """An arm at other learning rates, those left out that make an experiment which already exists."""
    for factor in factors:
        value = number(float(f"{arm.experiment.training.learning_rate * factor:.3g}"))
        other = mutate(arm.experiment, "lr", value)
        if other.experiment.identity in identities:
            continue
        identities.add(other.experiment.identity)
        name = f"lr {value}" if arm.name == CONTROL else f"{arm.name} + lr {value}"
        changes = (*arm.changes, *map(str, other.changes))
        yield Arm(name, other.experiment, (*arm.mutations, ("lr", value)), changes, arm.base)


@dataclass(frozen=True)
class TrainedAt:
    """At which settings and for how long the arms of a question are trained."""

    question: Question
    yardstick: Experiment  # whose steps and tokens its budget counts
    count: Callable[[Experiment], Costs]

    def entry(self, arm: Arm, root: Arm, base: Experiment, tasks: Sequence[TaskSpec]) -> PlannedArm:
        """The arm as it is trained, and as it would be promoted.

        Args:
            root: the same at its own learning rate, which costs as much.
            base: what it was made on: without another budget it trains for as much.
        """
        sets = self.question.sets
        costs = self.count(root.experiment)
        kept, words = equalised(arm.experiment, costs, Budget.of(base), self.count(base))
        trained = kept
        if sets or self.question.budget:
            wanted, meter = self.question.budget, self.yardstick if self.question.budget else base
            costs, meter = self.count(as_trained(root.experiment, base, sets)), as_trained(meter, meter, sets)
            own = as_trained(arm.experiment, base, sets)
            trained, words = equalised(own, costs, wanted or Budget.of(meter), self.count(meter))
        return PlannedArm(
            arm=arm.name,
            family=root.name,
            mutations=arm.mutations,
            changes=arm.changes,
            identity=trained.identity,
            experiment=trained.plain(),
            text=to_yaml(kept),
            budget=words,
            flops=costs.flops(Budget.of(trained)),
            costs=dict(costs.axes),
            code=trial_code(trained, tasks),
        )
