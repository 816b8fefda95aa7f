"""What a plan's requests are trained as."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from foundry.core.config import Experiment, from_plain
from foundry.core.config.assemble import edit
from foundry.core.config.mutate import mutate
from foundry.lab.decide.request import CONTROL, Request
from foundry.lab.ledger import Trial
from foundry.lab.ledger.events import RUNS
from foundry.lab.sweep.plan import Plan
from foundry.lab.trials.budget import share_of
from foundry.lab.trials.fingerprint import make_trial
from foundry.lab.trials.warm_start import Prefix, adopt, drop_checkpoints, next_share, prefix_of


@dataclass
class PlannedWork:
    """The trials of one plan, and their run folders: a `foundry.lab.trials.driver.Workload`."""

    plan: Plan
    project: Path
    _experiments: dict[tuple[str, Fraction, bool], Experiment] = field(default_factory=dict)
    _prefixes: dict[tuple[str, Fraction, int], Prefix | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rule = self.plan.question.rule
        families = {entry.family for entry in self.plan.entries} - {CONTROL}
        self.rungs = rule.shares(len(families)) if self.plan.kind == "sweep" else ()

    def of(self, request: Request) -> Trial:
        """What has to be trained for a request."""
        experiment = self._experiment(request.arm, request.share, request.role == "guard")
        if prefix := self._prefix(request):
            experiment = edit(experiment, {**prefix.edits}, "the sweep")
        return make_trial(experiment, request.seed, self.plan.setting, self.plan.question.tasks)

    def begin(self, request: Request, trial: Trial) -> None:
        """Before a trial is queued for the first time: it may go on from a shorter one."""
        earlier = [share for share in self.rungs if share < request.share]
        if request.role != "screen" or not earlier:
            return
        shorter = Request(request.arm, request.seed, "screen", earlier[-1])
        if prefix := self._prefix(shorter):
            adopt(self._run(self.of(shorter)), self._run(trial), trial.identity, prefix.step)

    def end(self, request: Request, trial: Trial) -> None:
        """After a trial has finished: its weights go, unless a longer one may begin with them."""
        if self._prefix(request) is None:
            drop_checkpoints(self._run(trial))

    def _prefix(self, request: Request) -> Prefix | None:
        """What the trial of a request leaves to the next rung."""
        longer = next_share(request.share, self.rungs)
        if request.role != "screen" or longer is None:
            return None
        key = (request.arm, request.share, request.seed)  # by whose rows a budget in tokens becomes steps
        if key not in self._prefixes:
            each = (self._experiment(request.arm, share, False) for share in (request.share, longer))
            short, long = (edit(experiment, {"seed": request.seed}, "the sweep") for experiment in each)
            per_position = 3 * self.plan.entry(request.arm).costs["flops_per_token"]
            self._prefixes[key] = prefix_of(short, long, per_position)
        return self._prefixes[key]

    def _run(self, trial: Trial) -> Path:
        return self.project / RUNS / trial.id

    def _experiment(self, arm: str, share: Fraction, guard: bool) -> Experiment:
        key = (arm, share, guard)
        if key not in self._experiments:
            experiment = from_plain(self.plan.entry(arm).experiment, project=self.project, source=arm)
            if guard:
                experiment = _scaled(experiment, self.plan.question.rule.scale())
            self._experiments[key] = share_of(experiment, share)
        return self._experiments[key]


def _scaled(experiment: Experiment, scale: tuple[str, int] | None) -> Experiment:
    """The experiment at the scale at which a winner has to hold."""
    assert scale is not None
    axis, factor = scale
    if axis == "tokens":
        return share_of(experiment, Fraction(factor))
    return mutate(experiment, "depth", str(experiment.model_args.n_layer * factor)).experiment
