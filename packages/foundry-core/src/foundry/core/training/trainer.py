"""The training loop. What happens beside it every so many steps is in jobs.py."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from foundry.core.contracts import Batch, EnvironmentFailure, Moment, Objective, Rows, Schedule, Stopped
from foundry.core.limits import is_out_of_memory
from foundry.core.model import GPT
from foundry.core.run import Run
from foundry.core.system.signals import StopRequest
from foundry.core.training.after_step import AfterStep
from foundry.core.training.aux_totals import AuxTotals
from foundry.core.training.budget import TrainingBudget
from foundry.core.training.checkpoint import Checkpoint
from foundry.core.training.clock import Clock
from foundry.core.training.device import Device
from foundry.core.training.distributed import World
from foundry.core.training.expert_load import ExpertLoad
from foundry.core.training.feed import Feed
from foundry.core.training.jobs import Jobs
from foundry.core.training.metrics import Metrics
from foundry.core.training.objective import summed
from foundry.core.training.optimization import clip_gradients
from foundry.core.training.profile import Profile
from foundry.core.training.progress import Progress
from foundry.core.training.randomness import restore_rng_streams, rng_streams
from foundry.core.training.reporter import Reporter
from foundry.core.training.weights import Weights

if TYPE_CHECKING:
    from foundry.core.config import Experiment


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
    trained: nn.Module  # the model as a step calls it: compiled, and wrapped for several ranks, where asked
    objective: Objective
    weights: Weights
    after_step: AfterStep
    expert_load: ExpertLoad
    schedule: Schedule
    budget: TrainingBudget
    metrics: Metrics
    reporter: Reporter
    stop: StopRequest
    profile: Profile
    progress: Progress
    clock: Clock
    jobs: Jobs = field(init=False)
    reported: AuxTotals = field(default_factory=AuxTotals)  # of the step under way, or the last one
    step_tokens: float = 0.0  # that the step under way trains on, on all ranks
    stopping: bool = False  # every rank knows that one was asked to stop

    def loop(self) -> None:
        """Train until the budget is spent. A signal saves and raises `Stopped`."""
        at = self.progress
        self.model.train()
        self.clock.start(at.seconds, at.tokens, at.positions)
        self.between_steps()
        while not self.budget.spent(at.step, at.seconds):
            lr_factor = self.schedule(at.step, self.budget.progress(at.step, at.seconds))
            loss, grad_norm = self.step(lr_factor)
            lr = self.experiment.training.learning_rate * lr_factor
            self.metrics.record(
                step=at.step, tokens=at.tokens, positions=at.positions, loss_share=loss, lr=lr, grad_norm=grad_norm,
                figure_shares=self.reported.figures, micro_batch=at.micro_batch,
            )  # fmt: skip
            self.between_steps()

    def step(self, lr_factor: float) -> tuple[Tensor, Tensor]:
        """One update, by the global batch at the cursor.

        Returns:
            This rank's share of the mean loss before it, and the norm of the gradient before clipping, both 0-D.
        """
        training, optimizer, at = self.experiment.training, self.weights.optimizer, self.progress
        loss = self.forward_backward(at.cursor)
        grad_norm = clip_gradients(optimizer.parameters, training.grad_clip)
        optimizer.step(lr_factor)
        optimizer.zero_grad()
        self.after_step.run(self.reported.counts)
        self.expert_load.add(self.reported.loads)
        if self.weights.ema:
            self.weights.ema.update()
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
            self.weights.optimizer.zero_grad()
            restore_rng_streams(streams, self.device, self.world.rank)
            self.progress.micro_batch = self.feed.micro_batch
            self.reporter.note(f"out of memory at {rows} rows; micro_batch is now {self.feed.micro_batch}")

    def _accumulate(self, local: Batch, n_tokens: float) -> Tensor:
        total = torch.zeros((), device=self.device.torch)
        self.reported.begin()
        for batch, is_last in self.feed.micro_batches(local):
            with nullcontext() if is_last or self.world.size == 1 else self.trained.no_sync():  # type: ignore[operator]
                with self.device.autocast():
                    loss, _, said = self.objective(self.trained, batch)
                    aux = summed(said, batch)
                extra = sum(value for name, value in aux.items() if name.endswith("_loss"))
                # DDP averages gradients over ranks; times its size, the average is the sum that n_tokens divides.
                ((loss + extra) * (self.world.size / n_tokens)).backward()
            total += loss.detach()
            self.reported.add(aux, n_tokens)
        return total / n_tokens

    # ---- between steps -----------------------------------------------------------------------------------------

    def between_steps(self) -> None:
        """Do what is due, see `foundry.core.training.jobs`. A signal saves, and raises `Stopped`."""
        at = self.progress
        self.profile.step(at.step)
        stopping = self.stopping or (self.world.size == 1 and self.stop.requested)
        ended = self.budget.spent(at.step, at.seconds)
        if self.jobs.run(Moment(at.step, ended, stopping, self.checkpoint)):
            raise Stopped(
                f"stopped by {self.stop.name or 'a signal'} at step {at.step}, saved in {self.run.path}",
                "run the same command again to resume",
            )

    def checkpoint(self) -> Checkpoint:
        """Everything that a resumed training goes on from. Every rank must ask for it; rank 0 has all of it."""
        at = self.progress
        tensors = {
            **self.weights.tensors(),
            "rng": self.world.gather_tensors(rng_streams(self.device, self.world.rank)),
        }
        state = {
            **asdict(at),
            "seconds": self.clock.read(),  # not in `at`, by which it is judged whether this step is the last
            "jobs": self.jobs.state(),
            "identity": self.experiment.identity,
            "loader": self.rows.state(at.cursor),
            "ema_updates": self.weights.ema.updates if self.weights.ema else 0,
            "tokenizer": self.rows.tokenizer.hash,
            "plugins": self.experiment.registry.fingerprint(),
        }
        return Checkpoint(tensors, state)
