"""From an experiment to a finished run: build everything, restore what was saved, train, write the result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from foundry.core.analyze import flops_per_token
from foundry.core.blame import answers_for
from foundry.core.code import UNKNOWN, code_fingerprint, several_codes
from foundry.core.contracts import InvalidData, PluginError, Stopped, Tokenizer
from foundry.core.digest import digest
from foundry.core.generate import first_ids
from foundry.core.limits import within_limits
from foundry.core.loading import rebuilt
from foundry.core.model import model_of, self_test
from foundry.core.model.promises import kept_promises
from foundry.core.run import SCHEMA_VERSION, Run, default_run
from foundry.core.system import replace_durably, writing
from foundry.core.system.signals import StopRequest
from foundry.core.training import checkpoint as checkpoints
from foundry.core.training.after_step import AfterStep
from foundry.core.training.budget import TrainingBudget, remarks_on_rows
from foundry.core.training.building import build_optimizer, fill, parallelize
from foundry.core.training.claim import Resume, claim, write_config
from foundry.core.training.clock import Clock
from foundry.core.training.device import Device, resolve, thread_remarks
from foundry.core.training.diagnosis import diagnosed
from foundry.core.training.distributed import World, join
from foundry.core.training.expert_load import ExpertLoad
from foundry.core.training.feed import Feed
from foundry.core.training.jobs import Jobs, Log, Sample, Save, Validate
from foundry.core.training.longer import go_on, kept_for_longer
from foundry.core.training.memory_check import require_training_memory
from foundry.core.training.metrics import Metrics
from foundry.core.training.objective import TrainingContext, build_objective
from foundry.core.training.open_rows import open_rows
from foundry.core.training.optimization import MovingAverage
from foundry.core.training.profile import Profile
from foundry.core.training.progress import Progress
from foundry.core.training.randomness import restore_rng_streams
from foundry.core.training.reporter import PlainReporter, Reporter
from foundry.core.training.samples import drop_samples_after
from foundry.core.training.trainer import Trainer
from foundry.core.training.weights import Weights

if TYPE_CHECKING:
    from foundry.core.config import Experiment


def train(
    experiment: Experiment,
    out: str | Path | None = None,
    *,
    resume: Resume = "auto",
    reporter: Reporter | None = None,
    profile: bool = False,
) -> dict[str, Any]:
    """Train `experiment`, or go on with its run, or return its result if it is finished.

    Args:
        out: the run folder; by default runs/NAME-HASH8-SEED in the experiment's project.
        resume: `auto` goes on where a checkpoint is, `must` fails without one, `never` starts afresh and renames an
            existing folder to NAME~1.
        profile: trace a few steps to RUN/profile.

    Returns:
        The content of result.json: run, step, tokens, val_loss, val_bpb, ...

    Raises:
        FoundryError: of the kind that the contracts name; `Stopped` after a signal, with everything saved.
    """
    reporter = reporter or PlainReporter()
    run = Run(Path(out)) if out is not None else default_run(experiment)
    with (
        join(experiment.training) as world,
        claim(run, experiment, resume, reporter.note) if world.is_main else nullcontext(),
    ):
        if world.is_main and out is None and resume == "auto" and not run.config_file.exists():
            device = resolve(experiment.training, local_rank=world.local_rank, local_world=world.local_size)
            go_on(run, experiment, device, reporter.note)
        world.barrier()
        result = run.result()
        if result is None:
            if not world.agree(digest(experiment.registry.fingerprint(), code_fingerprint(experiment))):
                raise PluginError(
                    "the ranks found different plugins, or other code", "install the same distributions everywhere"
                )
            with within_limits(), _error_kept(run) if world.is_main else nullcontext():
                result = _train(run, experiment, world, reporter, profile)
        if world.is_main:
            if remark := several_codes(result):
                reporter.note(remark)
            reporter.finished(result)
        world.barrier()
    return result


@contextmanager
def _error_kept(run: Run) -> Iterator[None]:
    """What ends the training is written down in its folder, so that a list of runs can say that it has failed."""
    run.error_file.unlink(missing_ok=True)
    try:
        yield
    except Stopped:
        raise
    except Exception:
        if run.config_file.exists():  # else it has not begun, and leaves no folder
            run.keep_error()
        raise


def _train(run: Run, experiment: Experiment, world: World, reporter: Reporter, profile: bool) -> dict[str, Any]:
    began = time.perf_counter()
    stop = StopRequest()
    trainer = build(run, experiment, world, reporter, stop, profile)
    with stop:  # before, there is nothing to save: a signal acts as anywhere else
        try:
            trainer.loop()
        except Exception as failure:
            reason = diagnosed(failure, trainer)
            if reason is failure:
                raise
            raise reason from failure
        finally:
            trainer.profile.close()
        return _finish(trainer, time.perf_counter() - began)


def build(
    run: Run, experiment: Experiment, world: World, reporter: Reporter, stop: StopRequest, profile: bool
) -> Trainer:
    """Everything that trains `experiment` in the folder of `run`, which exists: restored from its newest checkpoint, or
    new."""
    training, registry = experiment.training, experiment.registry
    config = run.config() if run.config_file.exists() else None
    saved_device = Device.saved_in(config, source=str(run.config_file)) if config else None
    device = resolve(training, local_rank=world.local_rank, local_world=world.local_size, saved=saved_device)
    rows = open_rows(experiment, run if config else None, reporter.note)
    vocab_size = rows.tokenizer.vocab_size

    require_training_memory(experiment, vocab_size, device, world.local_size)
    saved = _newest_checkpoint(run, world, reporter)
    if saved:
        _require_own(saved.state, run, experiment, rows.tokenizer)
    model = model_of(experiment, vocab_size, "meta")
    trained = parallelize(model, world, device, training)
    origin = fill(model, experiment, saved, source=str(run.path))
    optimizer = build_optimizer(model, experiment)
    began_with = ((config or {}).get("init_from") or {}).get("sha256") if saved else None
    objective = build_objective(TrainingContext(experiment, model, device, began_with))
    schedule = registry.build("schedule", training.schedule)
    with answers_for(schedule):
        float(schedule(0, 0.0)), float(schedule(1, 1.0))
    weights = Weights(model, optimizer, MovingAverage(model, training.ema) if training.ema else None)

    local_rows = training.batch_size // world.size
    micro_batch = local_rows if training.micro_batch == "auto" else min(training.micro_batch, local_rows)
    code = code_fingerprint(experiment)
    progress = Progress(micro_batch=micro_batch, codes=[code])
    # Dropout's stream, one for each rank; restored below when resuming.
    torch.manual_seed((experiment.seed * 1_000_003 + world.rank) % 2**63)
    if saved:
        progress = _restore(saved, rows, weights, device, world)
        if world.is_main:
            if progress.codes[-1] != code:
                reporter.note("the code that trains this run has changed since it was saved: its result will say so")
            _note_differences(saved.state, config or {}, registry.fingerprint(), device, reporter)
        if progress.codes[-1] != code:
            progress.codes.append(code)
    undivided = next((name for name, each in model.named_modules() if getattr(each, "reads_whole_batch", False)), "")
    if undivided and training.micro_batch == "auto":
        progress.micro_batch = local_rows  # also where it was saved by more ranks than there are now
    feed = Feed(rows, world, device, training.batch_size, progress.micro_batch, undivided=undivided)
    if world.is_main and (config is None or origin):
        write_config(run, experiment, device, rows, origin)

    per_position = 3 * flops_per_token(experiment, vocab_size)
    budget = TrainingBudget.of(experiment, rows, per_position)
    metrics = Metrics(
        run,
        world,
        resumed_at=progress.step,
        micro_batch=saved.state["micro_batch"] if saved else 0,
        recount=lambda step: rows.tokens_before(step * training.batch_size),
    )
    peak_flops = device.peak_flops()
    if world.is_main:
        n_parameters = sum(p.numel() for p in model.parameters())
        facts = {"run": str(run.path), "parameters": n_parameters, "device": device.model, "ranks": world.size}
        facts |= {"precision": device.precision, "threads": device.threads, "compile": device.compile}
        facts |= {"kernels": device.kernels}
        facts |= {"steps": budget.steps, "step": progress.step, "rows_per_epoch": rows.rows_per_epoch}
        reporter.started(facts | {"peak_flops": peak_flops and float(f"{peak_flops:.3g}")})
        for remark in (
            *remarks_on_rows(experiment, rows, budget.steps),
            *thread_remarks(device, training, world.local_size),
        ):
            reporter.note(remark)
    _try_plugins(experiment, weights, device)  # after `started`: it is their first step that may hang, not one of ours
    trainer = Trainer(
        experiment=experiment,
        run=run,
        world=world,
        device=device,
        rows=rows,
        feed=feed,
        model=model,
        trained=trained,
        objective=objective,
        weights=weights,
        after_step=AfterStep(model, world),
        expert_load=ExpertLoad(world),
        schedule=schedule,
        budget=budget,
        metrics=metrics,
        reporter=reporter,
        stop=stop,
        profile=Profile(run.path / "profile" if profile and world.is_main else None, reporter.note),
        progress=progress,
        clock=Clock(),
    )
    prompt = _sample_prompt(experiment, rows.tokenizer, reporter.note if world.is_main else lambda text: None)
    trainer.jobs = _jobs(trainer, per_position, peak_flops, prompt)
    if saved:
        trainer.jobs.restore(saved.state)
    if world.is_main:
        drop_samples_after(run, trainer.jobs.sample.sampled_at)
    return trainer


def _jobs(trainer: Trainer, flops_per_position: float, peak_flops: float | None, prompt: str | None) -> Jobs:
    experiment, rows, world = trainer.experiment, trainer.rows, trainer.world
    training, logging, saving = experiment.training, experiment.logging, experiment.checkpoints
    request = trainer.stop  # no job may hold the trainer: what is in a circle is freed late

    def stop() -> bool:
        return request.requested

    judged: dict[str, Any] = {"weights": trainer.weights, "rows": rows, "world": world, "stop": stop}
    validate = Validate(training.eval_interval, training.eval_tokens, device=trainer.device, **judged)
    log = Log(
        logging.log_interval,
        at=trainer.progress,
        metrics=trainer.metrics,
        expert_load=trainer.expert_load,
        clock=trainer.clock,
        budget=trainer.budget,
        device=trainer.device,
        world=world,
        reporter=trainer.reporter,
        flops_per_position=flops_per_position,
        peak_flops=peak_flops,
    )
    shared = kept_for_longer(experiment, trainer.budget.steps)
    save = Save(saving.save_interval, saving.keep, shared, trainer.run, world, trainer.metrics, validate)
    sample = Sample(
        logging.sample_interval,
        0 if prompt is None else logging.sample_tokens,
        prompt or "",
        experiment.seed,
        into=trainer.run,
        reporter=trainer.reporter,
        **judged,
    )
    return Jobs(validate, log, save, sample)


def _newest_checkpoint(run: Run, world: World, reporter: Reporter) -> checkpoints.Checkpoint | None:
    """The checkpoint to go on from, the same on every rank. Rank 0 judges; the others read what it chose."""
    saved = checkpoints.newest(run.checkpoints, reporter.note) if world.is_main else None
    step = world.from_main(int(saved.state["step"]) if saved else -1)
    if step < 0 or world.is_main:
        return saved
    return checkpoints.load(checkpoints.path_of(run.checkpoints, step))


def _require_own(state: Mapping[str, Any], run: Run, experiment: Experiment, tokenizer: Tokenizer) -> None:
    if state["identity"] != experiment.identity:
        raise InvalidData(f"{run.checkpoints}: step {state['step']} is of another experiment: {state['identity'][:8]}")
    if state["tokenizer"] != tokenizer.hash:
        raise InvalidData(f"{run.tokenizer_file} is not the tokenizer that {run.path} was trained with")


def _restore(
    saved: checkpoints.Checkpoint,
    rows: Any,
    weights: Weights,
    device: Device,
    world: World,
) -> Progress:
    state = saved.state
    cursor = rows.resume(state["loader"])
    weights.restore(saved.tensors, state["ema_updates"])
    # With more ranks than before, the new ones keep their fresh streams; the order of rows is the same.
    restore_rng_streams(saved.tensors["rng"], device, world.rank)
    known = {field.name for field in fields(Progress)}
    progress = Progress(**{key: value for key, value in state.items() if key in known})
    progress.cursor = cursor
    progress.codes = list(progress.codes) or [UNKNOWN]  # of a version that did not keep them
    if "positions" not in state:  # of a version whose tokens were positions
        progress.positions, progress.tokens = progress.tokens, rows.tokens_before(cursor)
    return progress


def _note_differences(
    state: Mapping[str, Any], config: Mapping[str, Any], plugins: str, device: Device, reporter: Reporter
) -> None:
    """Say what a resumed run does not share with its first part: it goes on, but not bit for bit. There is no `config`
    of a first part that a shorter run has trained."""
    was = config.get("versions", {}) | ({"device": config["device"].get("model")} if config else {})
    now = {name: version(name) for name in config.get("versions", {})} | {"device": device.model}
    for name, before in was.items():
        if before != now[name]:
            reporter.note(f"this run began with {name} {before}, and continues with {now[name]}")
    if "positions" not in state and config.get("experiment", {}).get("training", {}).get("tokens") is not None:
        reporter.note("padding counted as tokens when this run began; its budget of tokens now takes more steps")
    if state["plugins"] != plugins:
        reporter.note("the installed plugins differ from those that this run began with")


def _try_plugins(experiment: Experiment, weights: Weights, device: Device) -> None:
    """Raises:
    PluginError: a part of a plugin's makes the losses of this training, or what comes of it, worthless.
    """
    model = weights.model
    if not self_test.plugin_parts(model):
        return
    again = rebuilt(
        experiment, model.dims.vocab_size, weights.of_model(), device=device.torch, source="what would be saved"
    )
    with kept_promises(model, experiment.registry), kept_promises(again, experiment.registry):
        self_test.check_causality(model)
        self_test.check_checkpoint(model, again)
        if experiment.logging.sample_tokens:
            self_test.check_decoding(model)


def _sample_prompt(experiment: Experiment, tokenizer: Tokenizer, note: Callable[[str], None]) -> str | None:
    """What samples begin with: what the experiment says, or nothing, where the vocabulary lacks that. None: no sample
    can be written. Known now, and not when the first one is due."""
    wanted = experiment.logging.sample_prompt
    if not experiment.logging.sample_tokens:
        return None
    for prompt in dict.fromkeys((wanted, "")):
        try:
            first_ids(tokenizer, prompt)
        except InvalidData as error:
            reason = error.message
        else:
            if prompt != wanted:
                note(f"samples have no prompt instead of logging.sample_prompt {wanted!r}: {reason}")
            return prompt
    note(f"no samples are written: {reason}")
    return None


def _finish(trainer: Trainer, seconds: float) -> dict[str, Any]:
    trainer.progress.seconds = trainer.clock.read()
    at, experiment, run, jobs = trainer.progress, trainer.experiment, trainer.run, trainer.jobs
    result = {
        "schema_version": SCHEMA_VERSION,
        "run": str(run.path),
        "name": experiment.name,
        "identity": experiment.identity,
        "seed": experiment.seed,
        "step": at.step,
        "tokens": at.tokens,
        "positions": at.positions,
        "train_loss": jobs.log.train_loss,
        "val_loss": jobs.validate.val_loss,
        "val_bpb": jobs.validate.val_bpb,
        **jobs.log.experts,
        "micro_batch": at.micro_batch,
        "best_step": jobs.validate.best_step,
        "best_val_loss": jobs.validate.best_val_loss,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "codes": at.codes,
        "flops": at.positions * jobs.log.flops_per_position,
        "training_seconds": at.seconds,
        "seconds": seconds,
    }
    if trainer.world.is_main:
        with writing(run.result_file):
            replace_durably(run.result_file, json.dumps(result, indent=1).encode())
    return result
