"""How a sweep looks: while it runs, and when it has ended.

On a terminal a table of the arms that changes in place; off it one greppable line for every trial that ends; with
--json one object for each. All of it but the last object goes to stderr where a person reads, to stdout as JSON Lines.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.cli import render
from foundry.core.run import ERROR_LOG, Run
from foundry.lab import Running, SweepReporter

if TYPE_CHECKING:
    from rich.live import Live

    from foundry.lab import ArmConclusion, Lab, Plan, SweepResult

REDRAW_SECONDS = 0.5


@contextmanager
def laboratory(project: Path, executor: str, jobs: int, trial_seconds: float | None, retry: bool) -> Iterator[Lab]:
    """The project's laboratory, as a command's options ask for it, and its story on the screen."""
    from foundry.core.system import crowd_remark
    from foundry.lab import open_lab

    with (
        reporter(project) as reports,
        open_lab(
            project, executor=executor, jobs=jobs, trial_seconds=trial_seconds, retry=retry, reporter=reports
        ) as lab,
    ):
        if busy := crowd_remark():
            reports.note(busy)
        yield lab


@contextmanager
def reporter(project: Path) -> Iterator[SweepReporter]:
    """The one that fits where stderr goes; a table is taken down however the sweep ends."""
    if render.wants_json():
        yield JsonLines()
    elif render.is_terminal(sys.stderr):
        table = LiveTable(project)
        try:
            yield table
        finally:
            table.close()
    else:
        yield Lines()


class Lines:
    """One line on stderr for every trial that ends."""

    def __init__(self) -> None:
        self.metric = "val_loss"
        self.told: set[str] = set()

    def note(self, text: str) -> None:
        render.say(f"note: {text}")

    def planned(self, sweep: str, plan: Plan) -> None:
        self.metric = plan.question.rule.metric
        render.say(heading(sweep, plan))

    def batch(self, trials: Sequence[Running]) -> None:
        ended = [trial for trial in trials if trial.row.status in ("finished", "failed")]
        for done, trial in enumerate(sorted(ended, key=lambda trial: trial.row.ended or 0.0), 1):
            if trial.row.id not in self.told:
                self.told.add(trial.row.id)
                self.ended(trial, done, len(trials))

    def ended(self, trial: Running, done: int, of: int) -> None:
        facts = trial_facts(trial, self.metric)
        words = " ".join(f"{key}={_word(value)}" for key, value in facts.items() if value not in (None, ""))
        render.say(f"trial {done}/{of} {words}")

    def tick(self) -> None: ...


class JsonLines(Lines):
    """The same as objects on stdout, and more of them: also when a trial begins."""

    def note(self, text: str) -> None:
        render.record({"event": "note", "text": text})

    def planned(self, sweep: str, plan: Plan) -> None:
        self.metric = plan.question.rule.metric
        render.record(
            {"event": "sweep", "sweep": sweep, "kind": plan.kind, "arms": [entry.arm for entry in plan.entries],
             "generation": plan.generation, "metric": self.metric, "sigma": plan.sigma}
        )  # fmt: skip

    def batch(self, trials: Sequence[Running]) -> None:
        for trial in trials:
            state = f"{trial.row.id} {trial.row.status} {trial.row.attempts}"
            if trial.row.status != "queued" and state not in self.told:
                self.told.add(state)
                render.record({"event": "trial", **trial_facts(trial, self.metric)})


class LiveTable(Lines):
    """The arms of the current batch, drawn anew twice a second."""

    def __init__(self, project: Path) -> None:
        super().__init__()
        self.project = project
        self.title, self.began = "", time.monotonic()
        self.trials: Sequence[Running] = ()
        self.live: Live | None = None
        self.drawn = 0.0

    def planned(self, sweep: str, plan: Plan) -> None:
        self.close()
        super().planned(sweep, plan)
        self.title, self.began = f"{plan.kind} {sweep}", time.monotonic()

    def note(self, text: str) -> None:
        self._print(f"note: {text}")

    def batch(self, trials: Sequence[Running]) -> None:
        self.trials = trials
        if all(trial.row.status == "finished" for trial in trials) and self.live is None:
            return  # all of it was known
        self._draw()

    def tick(self) -> None:
        if time.monotonic() - self.drawn > REDRAW_SECONDS:
            self._draw()

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _draw(self) -> None:
        from rich.live import Live

        self.drawn = time.monotonic()
        if self.live is None:
            self.live = Live(console=render.screen(), transient=True, auto_refresh=False)
            self.live.start()
        self.live.update(self._table(), refresh=True)

    def _table(self) -> Any:
        done = sum(trial.row.status in ("finished", "failed") for trial in self.trials)
        columns = ("arm", "budget", "done", "running", self.metric)
        title = f"{self.title}: {done} of {len(self.trials)} trials, {time.monotonic() - self.began:.0f} s"
        rows = []
        for (arm, share), trials in grouped(self.trials).items():
            states = Counter(trial.row.status for trial in trials)
            scores = [score for trial in trials if (score := trial.row.metric(self.metric)) is not None]
            running = [self._progress(trial) for trial in trials if trial.row.status == "running"]
            failed = f", {states['failed']} failed" if states["failed"] else ""
            mean = f"{sum(scores) / len(scores):.4f}" if scores else ""
            rows.append((arm, share, f"{states['finished']}/{len(trials)}{failed}", ", ".join(running), mean))
        return render.drawn(columns, rows, title)

    def _progress(self, trial: Running) -> str:
        """`step 120/300`, as far as the run's metrics tell."""
        last = Run(self.project / trial.row.run).last_metrics() or {}
        steps = trial.row.trial.experiment["training"]["max_iters"]
        return f"step {last.get('step', 0)}{f'/{steps}' if steps else ''}"

    def _print(self, text: str) -> None:
        if self.live is not None:
            render.above(self.live.console, text)
        else:
            render.say(text)


def grouped(trials: Sequence[Running]) -> dict[tuple[str, str], list[Running]]:
    """By arm and share, in the order in which they are wanted."""
    groups: dict[tuple[str, str], list[Running]] = {}
    for trial in trials:
        groups.setdefault((trial.request.arm, str(trial.request.share)), []).append(trial)
    return groups


def trial_facts(trial: Running, metric: str) -> dict[str, Any]:
    """What one line says of a trial."""
    row, request = trial.row, trial.request
    facts: dict[str, Any] = {"trial": row.id, "arm": request.arm, "role": request.role, "budget": str(request.share)}
    facts |= {"seed": request.seed, "status": row.status, "attempt": row.attempts, metric: row.metric(metric)}
    if row.result is not None:
        facts["seconds"] = round(row.result["seconds"], 2)
    return {**facts, **({"reason": row.reason} if row.reason else {})}


def heading(sweep: str, plan: Plan) -> str:
    """`sweep 1a2b3c: attention mha, gqa_2kv against generation 3, ...`."""
    arms = ", ".join(plan.arms) or "the baseline alone"
    sets = f" with {', '.join(plan.question.sets)}" if plan.question.sets else ""
    known = "" if plan.sigma is None else f", sigma {plan.sigma:.4g} ({plan.df} degrees of freedom)"
    setting = plan.setting
    threads = f"{setting.threads} thread{'s' if setting.threads > 1 else ''}"
    baseline = plan.baseline.arm if plan.kind == "compare" else f"generation {plan.generation}"
    return (
        f"{plan.kind} {sweep}: {arms}; baseline: {baseline}{sets}{known}; "
        f"{setting.device}, {setting.precision}, {threads} a trial"
    )


def draw(result: SweepResult) -> None:
    """The arms, best first, and what follows in words."""
    columns = ("arm", "screening", "effect", "interval", "pairs", "verdict", "why")
    render.table(columns, [_row(arm) for arm in result.ranked()])
    for each in result.refused:
        render.say(f"left out: {each}")
    render.say(in_words(result))


def in_words(result: SweepResult) -> str:
    """What a sweep has found, in a few sentences."""
    end, plan = result.conclusion, result.plan
    trained = f"{end.runs} trainings, worth {float(end.cost):.3g} full budgets"
    if not end.arms:
        return "nothing to compare: every arm is the baseline itself, or the same as another"
    if end.winner is None:
        verdict = f"no arm is shown to be better than generation {plan.generation}"
    elif result.promoted is not None:
        verdict = f"{end.winner} is the new baseline: generation {result.promoted.number}"
    else:
        verdict = f"{end.winner} is better than generation {plan.generation}"
    against = "" if end.control_is_baseline else f" (the baseline with its best learning rate: {end.control})"
    return f"{verdict}{against}; {trained}\n{end.error_rate}"


def say_failed(lab: Lab, sweep: str) -> None:
    """How many trials of a sweep have failed, and what can be done about it."""
    if failed := lab.ledger.trials(sweep, status="failed"):
        again = "the same command with --retry trains what failed again"
        render.say(f"{len(failed)} of {len(lab.ledger.trials(sweep))} trials failed: {again}")
        if logs := [row.run for row in failed if (lab.project / row.run / ERROR_LOG).exists()]:
            render.say(f"the traceback of the last one: {render.place(lab.project / logs[-1] / ERROR_LOG)}")


def next_step(result: SweepResult, command: str) -> str:
    """The command that one would type now.

    Args:
        command: the one that was typed.
    """
    if result.promoted is not None:
        return "foundry lineage"
    if result.conclusion.winner is not None:
        return f"{command} --promote"
    return command if result.conclusion.is_open else "foundry mutate --list"


def _row(arm: ArmConclusion) -> list[str]:
    seen = arm.screening[-1] if arm.screening else None
    screened = "" if seen is None else f"{seen.difference:+.4f} at {seen.share}"
    judged = arm.judgement
    if judged is None:
        return [arm.arm, screened, "", "", "", arm.verdict, arm.reason]
    effect = "" if judged.effect is None else f"{judged.effect:+.4f}"
    return [arm.arm, screened, effect, judged.interval or "too early", str(judged.n), arm.verdict, arm.reason]


def _word(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else " ".join(str(value).split())
    return f'"{text}"' if " " in text else text
