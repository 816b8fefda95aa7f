"""Two experiments, A and B: which is better, with the same seeds, rows, evaluation, device and budget for both.

The runs are a sweep of kind `compare` in the ledger. Their seeds are those on which a sweep would confirm B against A,
so what one of the two trained, the other looks up, and the same comparison again is answered at once.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foundry.core.blame import FAULTS
from foundry.core.config import Experiment
from foundry.core.config.assemble import edit
from foundry.core.config.budget import Budget, with_budget
from foundry.core.config.difference import Change, difference
from foundry.core.config.mutate import is_held_fixed
from foundry.core.config.schema import BUDGETS
from foundry.core.contracts import InvalidExperiment, PluginError, UsageError
from foundry.lab.decide.comparison import Comparison, compare_procedure
from foundry.lab.decide.noise import NOISE_SEEDS
from foundry.lab.decide.request import CONTROL, Answers, Request
from foundry.lab.decide.rule import Rule
from foundry.lab.ledger.records import Json, TrialRow, span
from foundry.lab.sweep.arms import Arm
from foundry.lab.sweep.dry_run import training_seconds
from foundry.lab.sweep.lab import Lab
from foundry.lab.sweep.plan import Plan, check_question, not_built, plan_of, remarks_on
from foundry.lab.sweep.question import Question
from foundry.lab.trials.costs import Costs, in_steps_of
from foundry.lab.trials.scores import COMPARES_TOKENIZERS

SHOWN = ("val_loss", "val_bpb", "tokens_per_second")
"""Metrics of every run, beside the one that decides."""


@dataclass(frozen=True)
class Pairing:
    """Two experiments made equal in what they must share."""

    plan: Plan  # of kind compare; its entries are A and B
    differences: tuple[Change, ...]  # between them as they were written, but for the seed
    made_equal: tuple[str, ...]  # what was done, one sentence each
    remarks: tuple[str, ...]  # what to know of B before it is trained

    @classmethod
    def of(
        cls, first: Experiment, second: Experiment, rule: Rule, *, budget: Budget | None = None, jobs: int = 1
    ) -> Pairing:
        """Make two experiments equal in what a comparison holds fixed.

        Args:
            budget: of both; by default that of `first`.
            jobs: trials at a time, which share the machine's cores.

        Raises:
            InvalidExperiment: they differ in their data or evaluation: their scores would mean different things.
            FoundryError: one of them cannot be built.
            UsageError: they are the same experiment, or there is no such metric.
        """
        differences = tuple(change for change in difference(first, second) if change.key != "seed")
        _refuse_incomparable(first, second, differences)
        ours, theirs, made_equal = _level(first, second, budget)
        known = first.registry.metric(rule.metric)
        spell_otherwise = any(change.key.startswith("data.tokenizer") for change in differences)
        if known is not None and known.per_token and spell_otherwise:
            rule = replace(rule, metric=COMPARES_TOKENIZERS)
            made_equal.append(f"their tokens differ, so {COMPARES_TOKENIZERS} decides")
        question = Question((), rule, budget)
        check_question(question, first)
        names = (first.name, second.name) if first.name != second.name else (f"{first.name} A", f"{second.name} B")
        arms = [Arm(names[0], ours), Arm(names[1], theirs, changes=tuple(map(str, differences)))]
        plan, refused = plan_of(None, arms, question, jobs, lambda each, setting: Costs.of(each), kind="compare")
        if refused:
            raise (PluginError if refused[0].faulty else InvalidExperiment)(
                f"{refused[0].name} cannot be built", refused[0].reason
            )
        if words := plan.entries[1].budget:
            made_equal.append(f"{names[1]} has {words}")
        setting = plan.setting
        if any(change.key in setting.edits for change in differences):
            how = f"on {setting.device}, in {setting.precision}, with {setting.threads} threads"
            made_equal.append(f"both compute {how}")
        if len({edit(each, setting.edits, "the comparison").identity for each in (ours, theirs)}) == 1:
            raise UsageError(
                f"{names[0]} and {names[1]} are the same experiment" + (", once made equal" if made_equal else ""),
                "\n".join(made_equal) or "there is nothing to compare",
            )
        return cls(plan, differences, tuple(made_equal), tuple(remarks_on(plan, question, first)))

    @property
    def arms(self) -> tuple[str, str]:
        first, second = self.plan.entries
        return first.arm, second.arm

    def run(self, lab: Lab) -> Compared:
        """Train both until a sequential test knows, or look up what the ledger knows. The noise between seeds is
        measured first, with A, if it never was for A with this metric, budget and data.

        Raises:
            Stopped: the process was asked to stop; the same call resumes.
            FoundryError: both failed at the same seed.
        """
        first, second = self.plan.entries
        alone = replace(self.plan, entries=(replace(first, arm=CONTROL, family=CONTROL),))
        known = lab.with_noise(alone)
        # Of no generation: the baseline may change, and the comparison stays what it is.
        row = lab.newest(replace(self.plan, sigma=known.sigma, df=known.df), generation=None)
        sweep, plan = row.id, Plan.from_json(row.spec)

        def procedure(plan: Plan) -> Generator[Sequence[Request], Answers, Comparison]:
            assert plan.sigma is not None
            pair = plan.contender(first), plan.contender(second)
            return compare_procedure(*pair, plan.question.rule, plan.sigma, plan.df)

        comparison = lab.conclude(row, procedure, Comparison.from_json)
        ours, theirs = _trials(lab, sweep, first.arm), _trials(lab, sweep, second.arm)
        metric = plan.question.rule.metric
        return Compared(
            sweep,
            replace(self, plan=plan),
            comparison,
            (_means(ours, metric), _means(theirs, metric)),
            tuple([lab.ledger.curve(trial.id) for trial in trials] for trials in (ours, theirs)),  # type: ignore[arg-type]
        )

    def preview(self, lab: Lab) -> dict[str, Any]:
        """What a comparison takes: trainings to measure the noise first, then from `least` to `most` of both, of which
        the ledger may know some; the FLOPs of one of A and of B, None where they are counted in seconds; and the
        seconds of one of A, an estimate from a few steps on random tokens."""
        rule = self.plan.question.rule
        return {
            "noise_trials": 0 if lab.ledger.noise(self.plan.context) else NOISE_SEEDS,
            "least_trials": 2 * min(rule.window, rule.n_max),
            "most_trials": 2 * rule.n_max,
            "flops_per_trial": [entry.flops for entry in self.plan.entries],
            "seconds_per_trial": training_seconds(self.plan, lab.project),
        }


@dataclass(frozen=True)
class Compared:
    """The end of a comparison."""

    sweep: str
    pairing: Pairing  # with the noise that was decided with
    comparison: Comparison
    means: tuple[Mapping[str, float], Mapping[str, float]]  # of A and B over their runs: SHOWN, and what decided
    curves: tuple[Sequence[Sequence[Json]], Sequence[Sequence[Json]]]  # of A and B: the ledger's curve of every run

    @property
    def verdict(self) -> str:
        """Which is better, by how much, and how sure that is."""
        plan, ended = self.pairing.plan, self.comparison
        rule, (first, second) = plan.question.rule, self.pairing.arms
        assert plan.sigma is not None
        unit, gain = plan.unit or f"of {rule.metric}", rule.gain(plan.sigma)
        sure = f"P(wrong) <= {rule.alpha:.0%}"
        if ended.effect is None:
            return f"{ended.reason}{f' ({sure})' if ended.choice in ('first', 'second') else ''}"
        pairs = "1 pair" if len(ended.pairs) == 1 else f"{len(ended.pairs)} pairs"
        low, high, (better, worse) = ended.low, ended.high, (second, first)
        if ended.choice == "first":
            low, high, better, worse = None if high is None else -high, None if low is None else -low, first, second
        interval = span(low, high, ended.confidence) or "too early for an interval"
        effect = -ended.effect if ended.choice == "first" else ended.effect
        figures = f"by {effect:.4f} {unit} in the median ({interval}, {pairs}"
        failures = "".join(f"; {each}" for each in ended.reason.split("; ")[1:])
        match ended.choice:
            case "first" | "second":
                return f"{better} is better than {worse} {figures}, {sure}){failures}"
            case "alike":
                unlikely = f"either is {1 / rule.beta:.0f} times less likely than none"
                return f"neither seems better by {gain:.4g} {unit}, {unlikely}: {better} is {figures}){failures}"
            case _:
                return f"undecided: {better} is better than {worse} {figures}){failures}"


def _refuse_incomparable(first: Experiment, second: Experiment, changes: Sequence[Change]) -> None:
    budgets = [f"training.{name}" for name in BUDGETS]
    held = [change for change in changes if is_held_fixed(change.key, first.registry) and change.key not in budgets]
    if held:
        raise InvalidExperiment(
            f"{first.name} and {second.name} cannot be compared: {'; '.join(map(str, held))}",
            "scores mean the same only on the same data and evaluation: make them equal in one of the files",
        )


def _level(first: Experiment, second: Experiment, budget: Budget | None) -> tuple[Experiment, Experiment, list[str]]:
    """Both with one budget, counted in tokens, and the same text to validate on; and what that took."""
    words = []
    wanted, own = budget or Budget.of(first), Budget.of(second)
    worth = in_steps_of(wanted, _costs_of(first), _costs_of(second))
    if budget:
        words.append(f"both train for {budget}")
    elif own.edits != worth.edits:
        words.append(f"{second.name} trains for {worth}, worth the {wanted} of {first.name}; its own are {own}")
    tokens = first.training.eval_tokens
    if second.training.eval_tokens != tokens:
        words.append(f"both are validated on {'the whole text' if tokens is None else f'{tokens:,} tokens'}")
        second = edit(second, {"training.eval_tokens": tokens}, "the comparison")
    return with_budget(first, wanted), with_budget(second, worth), words


def _costs_of(experiment: Experiment) -> Costs:
    try:
        return Costs.of(experiment)
    except FAULTS as error:
        raise not_built(experiment.name, error) from error


def _trials(lab: Lab, sweep: str, arm: str) -> list[TrialRow]:
    """The finished runs of an arm, in the order of their seeds."""
    rows = [lab.ledger.trial(want.trial) for want in lab.ledger.wanted(sweep) if want.arm == arm]
    return [row for row in rows if row is not None and row.result is not None]


def _means(trials: Sequence[TrialRow], metric: str) -> dict[str, float]:
    names = dict.fromkeys((metric, *SHOWN))
    found = {name: [value for trial in trials if (value := trial.metric(name)) is not None] for name in names}
    return {name: math.fsum(values) / len(values) for name, values in found.items() if values}
