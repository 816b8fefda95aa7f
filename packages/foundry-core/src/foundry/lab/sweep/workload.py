"""What a plan's requests are trained as."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from foundry.core.config import Experiment, from_plain
from foundry.core.config.assemble import edit
from foundry.core.config.budget import share_of
from foundry.core.config.mutate import mutate
from foundry.core.training.longer import adopt
from foundry.lab.decide.request import CONTROL, Request
from foundry.lab.ledger import Trial
from foundry.lab.ledger.events import RUNS
from foundry.lab.sweep.plan import Plan
from foundry.lab.trials.fingerprint import make_trial
from foundry.lab.trials.warm_start import WarmStart, drop_checkpoints, next_share, warm_start_of


@dataclass
class PlannedWork:
    """The trials of one plan, and their run folders: a `foundry.lab.trials.driver.Workload`."""

    plan: Plan
    project: Path
    _experiments: dict[tuple[str, Fraction, bool], Experiment] = field(default_factory=dict)
    _warm_starts: dict[tuple[str, Fraction, int], WarmStart | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rule = self.plan.question.rule
        families = {entry.family for entry in self.plan.entries} - {CONTROL}
        self.rungs = rule.shares(len(families)) if self.plan.kind == "sweep" else ()

    def of(self, request: Request) -> Trial:
        """What has to be trained for a request."""
        experiment = self._experiment(request.arm, request.share, request.role == "guard")
        if start := self._warm_start(request):
            experiment = edit(experiment, {**start.edits}, "the sweep")
        return make_trial(experiment, request.seed, self.plan.setting, self.plan.tasks)

    def begin(self, request: Request, trial: Trial) -> None:
        """Before a trial is queued for the first time: it may go on from a shorter one."""
        earlier = [share for share in self.rungs if share < request.share]
        if request.role != "screen" or not earlier:
            return
        shorter = Request(request.arm, request.seed, "screen", earlier[-1])
        if start := self._warm_start(shorter):
            adopt(self._run(self.of(shorter)), self._run(trial), trial.identity, start.step)

    def end(self, request: Request, trial: Trial) -> None:
        """After a trial has finished: its weights go, unless a longer one may begin with them."""
        if self._warm_start(request) is None:
            drop_checkpoints(self._run(trial))

    def _warm_start(self, request: Request) -> WarmStart | None:
        """What the trial of a request leaves to the next rung."""
        longer = next_share(request.share, self.rungs)
        if request.role != "screen" or longer is None:
            return None
        key = (request.arm, request.share, request.seed)  # by whose rows a budget in tokens becomes steps
        if key not in self._warm_starts:
            each = (self._experiment(request.arm, share, False) for share in (request.share, longer))
            short, long = (edit(experiment, {"seed": request.seed}, "the sweep") for experiment in each)
            per_position = 3 * self.plan.entry(request.arm).costs["flops_per_token"]
            self._warm_starts[key] = warm_start_of(short, long, per_position)
        return self._warm_starts[key]

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
