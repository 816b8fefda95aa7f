"""What a training does beside its steps, every so many of them, and in which order.

    validate    the validation loss of the judged weights
    log         a row of metrics, with all that was measured at its step
    save        a checkpoint
    sample      what the model writes

Nothing is done of a run that has diverged. What was measured is on disk before the checkpoint that counts on it; and
the checkpoint comes before the sample, which is the one thing here that may fail for its own reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from foundry.core.contracts import Job, Moment, Rows
from foundry.core.generate import Sampling, stream_text
from foundry.core.run import EXPERT_FIELDS, Run
from foundry.core.training import checkpoint as checkpoints
from foundry.core.training.budget import TrainingBudget
from foundry.core.training.clock import Clock
from foundry.core.training.device import Device
from foundry.core.training.distributed import World
from foundry.core.training.expert_load import ExpertLoad
from foundry.core.training.metrics import Metrics
from foundry.core.training.progress import Progress
from foundry.core.training.reporter import Reporter
from foundry.core.training.samples import append_sample
from foundry.core.training.validation import validation_loss
from foundry.core.training.weights import Weights


class Stateful:
    """A job whose state is its dataclass fields that are named in `kept`."""

    kept: tuple[str, ...] = ()

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in self.kept:
            if name in state:
                setattr(self, name, state[name])


@dataclass
class Validate(Stateful):
    """Every `interval` steps, and at the end."""

    interval: int
    max_tokens: int | None
    weights: Weights
    rows: Rows
    device: Device
    world: World
    stop: Callable[[], bool]
    evaluated_at: int = 0
    val_loss: float | None = None
    val_bpb: float | None = None
    best_step: int | None = None
    best_val_loss: float | None = None
    name = "validate"
    kept = ("evaluated_at", "val_loss", "val_bpb", "best_step", "best_val_loss")

    def is_due(self, now: Moment) -> bool:
        return (now.ended or _due(now.step, self.interval)) and self.evaluated_at != now.step and not now.stopping

    def run(self, now: Moment) -> Mapping[str, float] | None:
        with self.weights.judged() as model:
            scored = validation_loss(
                model, self.rows.validation, self.rows.tokenizer, self.device, self.world,
                max_tokens=self.max_tokens, stop=self.stop,
            )  # fmt: skip
        if scored is None:
            return None
        self.evaluated_at, self.val_loss, self.val_bpb = now.step, scored.val_loss, scored.val_bpb
        if self.best_val_loss is None or scored.val_loss < self.best_val_loss:
            self.best_val_loss, self.best_step = scored.val_loss, now.step
        return {"val_loss": scored.val_loss, "val_bpb": scored.val_bpb}


@dataclass
class Log(Stateful):
    """Every `interval` steps, and whenever another job is due: speed, memory and the use of experts since the last
    row, with what others have measured."""

    interval: int
    at: Progress
    metrics: Metrics
    expert_load: ExpertLoad
    clock: Clock
    budget: TrainingBudget
    device: Device
    world: World
    reporter: Reporter
    flops_per_position: float
    peak_flops: float | None
    train_loss: float | None = None
    experts: dict[str, float] = field(default_factory=dict)  # how they were used, in the last row that says so
    name = "log"
    kept = ("train_loss", "experts")

    def is_due(self, now: Moment) -> bool:
        return _due(now.step, self.interval)

    def run(self, now: Moment) -> Mapping[str, float]:
        if row := self.metrics.flush(**self.expert_load.read(), **now.figures):
            self.train_loss = row["train_loss"]
            self.experts = {key: row[key] for key in EXPERT_FIELDS if key in row}
            if self.world.is_main:
                progress = self.budget.progress(now.step, self.at.seconds)
                self.reporter.step(row, progress, self.budget.seconds_left(now.step, now.figures["elapsed"]))
        return {}

    def measure(self) -> dict[str, float]:
        """Speed since the last call."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds, waited, (tokens, positions) = self.clock.lap(self.at.tokens, self.at.positions)
        measured: dict[str, float] = {"memory_bytes": self.device.memory_bytes(), "elapsed": self.clock.read()}
        if positions and seconds:
            measured |= {"tokens_per_second": tokens / seconds, "data_wait": waited / seconds}
            if self.peak_flops:
                flops = positions * self.flops_per_position
                measured["mfu"] = flops / seconds / (self.peak_flops * self.world.size)
        return measured


@dataclass
class Save(Stateful):
    """Every `interval` steps, at the end, when one is asked to stop, at the best validation loss so far, and after step
    `shared`. The last `keep` stay, the best, and that one."""

    interval: int
    keep: int
    shared: int  # the last step that a longer training has, too; 0: none
    into: Run
    world: World
    metrics: Metrics
    validate: Validate
    saved_at: int = 0
    name = "save"
    kept = ("saved_at",)

    def is_due(self, now: Moment) -> bool:
        is_best = "val_loss" in now.figures and self.validate.best_step == now.step
        is_wanted = now.ended or now.stopping or is_best or now.step == self.shared or _due(now.step, self.interval)
        return is_wanted and self.saved_at != now.step

    def run(self, now: Moment) -> Mapping[str, float]:
        self.metrics.sync()
        self.saved_at = now.step
        saved = now.checkpoint()
        if self.world.is_main:
            folder = self.into.checkpoints
            checkpoints.save(folder, now.step, saved)
            checkpoints.prune(folder, keep=self.keep, pinned={self.shared, self.validate.best_step or 0})
        self.world.barrier()
        return {}


@dataclass
class Sample(Stateful):
    """Every `interval` steps, and at the end, by rank 0."""

    interval: int
    tokens: int  # 0: never
    prompt: str
    seed: int
    weights: Weights
    rows: Rows
    into: Run
    world: World
    reporter: Reporter
    stop: Callable[[], bool]
    sampled_at: int = 0
    name = "sample"
    kept = ("sampled_at",)

    def is_due(self, now: Moment) -> bool:
        is_time = (now.ended or _due(now.step, self.interval)) and self.sampled_at != now.step
        return is_time and not now.stopping and bool(self.tokens)

    def run(self, now: Moment) -> Mapping[str, float] | None:
        if self.world.is_main:
            pieces = []
            with self.weights.judged() as model:
                try:
                    for piece in stream_text(
                        model, self.rows.tokenizer, self.prompt, self.tokens, Sampling(), seed=self.seed
                    ):
                        if self.stop():
                            return None
                        pieces.append(piece)
                finally:
                    model.train()
            text = "".join(pieces)
            append_sample(self.into, now.step, self.prompt, text)
            self.reporter.sample(now.step, self.prompt + text)
        self.sampled_at = now.step
        return {}


class Jobs:
    """The jobs of one training, in their order."""

    def __init__(self, validate: Validate, log: Log, save: Save, sample: Sample) -> None:
        self.validate, self.log, self.save, self.sample = validate, log, save, sample
        self.order: Sequence[Job] = (validate, log, save, sample)

    def run(self, now: Moment) -> bool:
        """Do what is due. Whether it is time to stop: every rank says the same."""
        if not now.stopping and not any(job.is_due(now) for job in self.order):
            return False
        now.figures |= self.log.measure()
        with self.log.clock.paused():
            self.log.metrics.settle()  # nothing is done of a run that has diverged
            for job in self.order:
                if job is self.log or job.is_due(now):
                    figures = job.run(now)
                    # Of several ranks none may leave the others: they have agreed on a signal once per step.
                    now.stopping |= figures is None and self.log.world.size == 1
                    now.figures |= figures or {}
            if now.stopping and self.save.is_due(now):  # a signal came in the middle of the last job
                self.save.run(now)
        return now.stopping

    def state(self) -> dict[str, dict[str, Any]]:
        """Of each by its name, for a checkpoint."""
        return {job.name: job.state() for job in self.order}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. In those of versions before jobs the state of all is in one."""
        for job in self.order:
            job.restore(state["jobs"].get(job.name, {}) if "jobs" in state else state)


def _due(step: int, interval: int) -> bool:
    return bool(step and interval and step % interval == 0)
