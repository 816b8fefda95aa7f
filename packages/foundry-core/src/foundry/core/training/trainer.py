"""The training loop, and what happens beside it every so many steps."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from foundry.core.contracts import Batch, EnvironmentFailure, Rows, Schedule, Stopped
from foundry.core.generate import Sampling, stream_text
from foundry.core.limits import is_out_of_memory
from foundry.core.model import GPT
from foundry.core.run import EXPERT_FIELDS, Run
from foundry.core.system.signals import StopRequest
from foundry.core.training import checkpoint as checkpoints
from foundry.core.training.after_step import AfterStep
from foundry.core.training.clock import Clock
from foundry.core.training.device import Device
from foundry.core.training.distributed import World
from foundry.core.training.evaluation import evaluate
from foundry.core.training.expert_load import ExpertLoad
from foundry.core.training.feed import Feed
from foundry.core.training.horizon import Horizon
from foundry.core.training.metrics import Metrics
from foundry.core.training.optimization import MovingAverage, OptimizerSet, clip_gradients
from foundry.core.training.profile import Profile
from foundry.core.training.randomness import restore_rng_streams, rng_streams
from foundry.core.training.report import Reporter
from foundry.core.training.reported import Reported
from foundry.core.training.samples import append_sample

if TYPE_CHECKING:
    from foundry.core.config import Experiment


@dataclass
class Progress:
    """Where the run is: all of it goes into every checkpoint."""

    step: int = 0
    cursor: int = 0  # training rows used
    tokens: int = 0  # that were trained on
    positions: int = 0  # that were computed, padding included
    seconds: float = 0.0  # of training; evaluation, sampling and saving left out
    evaluated_at: int = 0
    saved_at: int = 0
    sampled_at: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    val_bpb: float | None = None
    experts: dict[str, float] = field(default_factory=dict)  # how they were used, in the last row that says so
    best_step: int | None = None
    best_val_loss: float | None = None
    micro_batch: int = 0
    codes: list[str] = field(default_factory=list)  # by which it was trained so far, see foundry.core.code


@dataclass
class Trainer:
    """Everything one rank needs, built or restored by `foundry.core.training.train`."""

    experiment: Experiment
    run: Run
    world: World
    device: Device
    rows: Rows
    feed: Feed
    model: GPT
    objective: nn.Module  # (batch) -> loss sum, count, aux; compiled and wrapped for several ranks where asked
    optimizer: OptimizerSet
    after_step: AfterStep
    expert_load: ExpertLoad
    schedule: Schedule
    budget: Horizon
    ema: MovingAverage | None
    metrics: Metrics
    reporter: Reporter
    stop: StopRequest
    profile: Profile
    flops_per_position: float
    peak_flops: float | None
    progress: Progress = field(default_factory=Progress)
    clock: Clock = field(default_factory=Clock)
    reported: Reported = field(default_factory=Reported)  # of the step under way, or the last one
    step_tokens: float = 0.0  # that the step under way trains on, on all ranks
    stopping: bool = False  # every rank knows that one was asked to stop

    def loop(self) -> None:
        """Train until the budget is spent. A signal saves and raises `Stopped`."""
        at = self.progress
        self.model.train()
        self.clock.start(at.seconds, at.tokens, at.positions)
        self.housekeeping()
        while not self.budget.spent(at.step, at.seconds):
            lr_factor = self.schedule(at.step, self.budget.progress(at.step, at.seconds))
            loss, grad_norm = self.step(lr_factor)
            lr = self.experiment.training.learning_rate * lr_factor
            self.metrics.record(
                step=at.step, tokens=at.tokens, positions=at.positions, loss_share=loss, lr=lr, grad_norm=grad_norm,
                figure_shares=self.reported.figures, micro_batch=at.micro_batch,
            )  # fmt: skip
            self.housekeeping()

    def step(self, lr_factor: float) -> tuple[Tensor, Tensor]:
        """One update, by the global batch at the cursor.

        Returns:
            This rank's share of the mean loss before it, and the norm of the gradient before clipping, both 0-D.
        """
        training, at = self.experiment.training, self.progress
        loss = self.forward_backward(at.cursor)
        grad_norm = clip_gradients(self.optimizer.parameters, training.grad_clip)
        self.optimizer.step(lr_factor)
        self.optimizer.zero_grad()
        self.after_step.run(self.reported.counts)
        self.expert_load.add(self.reported.loads)
        if self.ema:
            self.ema.update()
        at.step += 1
        at.tokens += int(self.step_tokens)
        at.cursor += training.batch_size
        at.positions += training.batch_size * self.model.dims.block_size
        return loss, grad_norm

    def forward_backward(self, cursor: int) -> Tensor:
        """Gradients of the mean loss over the global batch at `cursor`; returns this rank's share of that mean.

        A forward pass that does not fit the memory is done again with half the rows: the sum is the same up to the
        order of addition.
        """
        with self.clock.waiting():
            local = self.feed.local(cursor)
        mine = [self.feed.weight(local), float(self.feed.tokens(local)), float(self.stop.requested)]
        # Ranks must stop, and judge a budget of seconds, at the same step: they agree on both once per step.
        seconds = self.clock.read() * self.world.is_main
        weight, self.step_tokens, n_stops, self.progress.seconds = self.world.sum([*mine, seconds])
        self.stopping = n_stops > 0
        streams = rng_streams(self.device, self.world.rank)
        while True:
            try:
                return self._accumulate(local, weight)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                rows = self.feed.micro_batch
                if self.world.size > 1 or self.experiment.training.micro_batch != "auto" or not self.feed.halve():
                    fewer = f"training.micro_batch={max(1, rows // 2)}"
                    if self.feed.undivided:
                        fewer = f"training.batch_size={max(1, self.feed.batch_size // 2)}"
                    raise EnvironmentFailure(
                        f"out of memory with {rows} rows of {self.model.dims.block_size} tokens in a forward pass",
                        f"use --set {fewer}, or training.gradient_checkpointing=true",
                    ) from error
            # As if nothing had been tried: the gradients so far are dropped, and dropout draws from where it stood.
            self.optimizer.zero_grad()
            restore_rng_streams(streams, self.device, self.world.rank)
            self.progress.micro_batch = self.feed.micro_batch
            self.reporter.note(f"out of memory at {rows} rows; micro_batch is now {self.feed.micro_batch}")

    def _accumulate(self, local: Batch, n_tokens: float) -> Tensor:
        total = torch.zeros((), device=self.device.torch)
        self.reported.begin()
        for batch, is_last in self.feed.micro_batches(local):
            with nullcontext() if is_last or self.world.size == 1 else self.objective.no_sync():  # type: ignore[operator]
                with self.device.autocast():
                    loss, _, aux = self.objective(batch)
                extra = sum(value for name, value in aux.items() if name.endswith("_loss"))
                # DDP averages gradients over ranks; times its size, the average is the sum that n_tokens divides.
                ((loss + extra) * (self.world.size / n_tokens)).backward()
            total += loss.detach()
            self.reported.add(aux, n_tokens)
        return total / n_tokens

    # ---- beside the loop ---------------------------------------------------------------------------------------

    def housekeeping(self) -> None:
        """Log, evaluate, sample, save or stop: whatever is due at this step and not done yet."""
        at, training, logging = self.progress, self.experiment.training, self.experiment.logging
        self.profile.step(at.step)
        ended = self.budget.spent(at.step, at.seconds)
        stopping = self.stopping or (self.world.size == 1 and self.stop.requested)
        evaluating = (ended or _due(at.step, training.eval_interval)) and at.evaluated_at != at.step and not stopping
        sampling = (ended or _due(at.step, logging.sample_interval)) and at.sampled_at != at.step and not stopping
        saving = (ended or _due(at.step, self.experiment.checkpoints.save_interval)) and at.saved_at != at.step

        if _due(at.step, logging.log_interval) or evaluating or sampling or saving or stopping:
            measured = self._measure()
            with self.clock.paused():
                self.metrics.settle()  # a run that diverged is not evaluated first
                scored = self._evaluate() if evaluating else {}
                # A signal during the evaluation ends it; the resumed run does it first.
                stopping = stopping or (evaluating and not scored)
                if row := self.metrics.flush(**measured, **self.expert_load.read(), **scored):
                    at.train_loss = row["train_loss"]
                    at.experts = {key: row[key] for key in EXPERT_FIELDS if key in row}
                    if self.world.is_main:
                        progress = self.budget.progress(at.step, at.seconds)
                        self.reporter.step(row, progress, self.budget.seconds_left(at.step, measured["elapsed"]))
                # Before the sample, which is the one thing here that may fail for its own reasons.
                if (saving or stopping or (scored and at.best_step == at.step)) and at.saved_at != at.step:
                    self.save()
                if sampling and not stopping and logging.sample_tokens:
                    stopping = not self._sample() and self.world.size == 1
                    if stopping and at.saved_at != at.step:
                        self.save()
        if stopping:
            raise Stopped(
                f"stopped by {self.stop.name or 'a signal'} at step {at.step}, saved in {self.run.path}",
                "run the same command again to go on",
            )

    def save(self) -> None:
        """A checkpoint of everything, of which `keep` and the best are kept."""
        at = self.progress
        self.metrics.sync()
        at.saved_at = at.step
        streams = self.world.gather_tensors(rng_streams(self.device, self.world.rank))
        if self.world.is_main:
            tensors = {
                "model": saved_tensors(self.model),
                "optimizer": self.optimizer.tensors(),
                "ema": self.ema.weights if self.ema else {},
                "rng": streams,
            }
            state = {
                **asdict(at),
                "seconds": self.clock.read(),  # not in `at`, by which it is judged whether this step is the last
                "identity": self.experiment.identity,
                "loader": self.rows.state(at.cursor),
                "ema_updates": self.ema.updates if self.ema else 0,
                "tokenizer": self.rows.tokenizer.hash,
                "plugins": self.experiment.registry.fingerprint(),
            }
            checkpoints.save(self.run.checkpoints, at.step, checkpoints.Checkpoint(tensors, state))
            pinned = {at.best_step} if at.best_step is not None else set()
            checkpoints.prune(self.run.checkpoints, keep=self.experiment.checkpoints.keep, pinned=pinned)
        self.world.barrier()

    def _evaluate(self) -> dict[str, float]:
        """The validation loss of the judged weights: the moving average where the run keeps one."""
        at = self.progress
        if self.ema:
            self.ema.swap()
        try:
            scored = evaluate(
                self.model, self.rows.validation, self.rows.tokenizer, self.device, self.world,
                max_tokens=self.experiment.training.eval_tokens, stop=lambda: self.stop.requested,
            )  # fmt: skip
        finally:
            if self.ema:
                self.ema.swap()
        if scored is None:
            return {}
        at.evaluated_at, at.val_loss, at.val_bpb = at.step, scored.val_loss, scored.val_bpb
        if at.best_val_loss is None or scored.val_loss < at.best_val_loss:
            at.best_val_loss, at.best_step = scored.val_loss, at.step
        return {"val_loss": scored.val_loss, "val_bpb": scored.val_bpb}

    def _sample(self) -> bool:
        """Let rank 0 write; False if a signal cut it short: then the resumed run writes it anew."""
        at, logging, pieces = self.progress, self.experiment.logging, []
        if self.world.is_main:
            if self.ema:
                self.ema.swap()
            try:
                for piece in stream_text(
                    self.model, self.rows.tokenizer, logging.sample_prompt, logging.sample_tokens, Sampling(),
                    seed=self.experiment.seed,
                ):  # fmt: skip
                    if self.stop.requested:
                        return False
                    pieces.append(piece)
            finally:
                if self.ema:
                    self.ema.swap()
                self.model.train()
            text = "".join(pieces)
            append_sample(self.run, at.step, logging.sample_prompt, text)
            self.reporter.sample(at.step, logging.sample_prompt + text)
        at.sampled_at = at.step
        return True

    def _measure(self) -> dict[str, float]:
        """Speed since the last call."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds, waited, (tokens, positions) = self.clock.lap(self.progress.tokens, self.progress.positions)
        measured: dict[str, float] = {"memory_bytes": self.device.memory_bytes(), "elapsed": self.clock.read()}
        if positions and seconds:
            measured |= {"tokens_per_second": tokens / seconds, "data_wait": waited / seconds}
            if self.peak_flops:
                flops = positions * self.flops_per_position
                measured["mfu"] = flops / seconds / (self.peak_flops * self.world.size)
        return measured


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a model: each parameter once, tied or not, and the buffers that persist."""
    persistent = model.state_dict().keys()
    return dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in persistent}


def _due(step: int, interval: int) -> bool:
    return bool(step and interval and step % interval == 0)
