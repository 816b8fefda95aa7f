"""How fast this machine trains an experiment under each choice that the experiment leaves open.

Training itself never chooses by a stopwatch, because precision, threads and compilation change the numbers. This
measures them once, and says which `--set` to write down.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from foundry.core.analyze import flops_per_token
from foundry.core.contracts import Batch, EnvironmentFailure
from foundry.core.model import initialize, model_of
from foundry.core.system import available_cores
from foundry.core.training.building import build_optimizer, parallelize
from foundry.core.training.device import REFERENCE, Device, kernels_of, resolve, setting_of
from foundry.core.training.distributed import World
from foundry.core.training.memory_check import require_training_memory
from foundry.core.training.objective import TrainingContext, build_objective
from foundry.core.training.optimization import clip_gradients

if TYPE_CHECKING:
    from foundry.core.config import Experiment

WARM_UP_STEPS = 2
BLOCK_STEPS = 3


def bench(
    experiment: Experiment,
    vocab_size: int,
    *,
    padding: float = 0.0,
    seconds: float = 3.0,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time whole optimizer steps on random tokens under several choices.

    Args:
        padding: the share of the positions that the experiment's own text would leave empty: they take time, and are
            no tokens.
        seconds: of measurement per choice; compilation comes on top.
        note: called with the name of each choice before it is measured.

    Returns:
        `choices`: a list of {threads, kernels, precision, compile, tokens_per_second, step_seconds, mfu, error};
        `best`: the fastest of them; `sets`: what to pass to `foundry train` to get it.

    Raises:
        EnvironmentFailure: not one choice can be trained here.
    """
    own = base = resolve(experiment.training)
    measured: list[dict[str, Any]] = []

    def measure(device: Device) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "threads": device.threads,
            "kernels": setting_of(device.kernels),
            "precision": device.precision,
            "compile": device.compile,
        }
        note(" ".join(f"{key}={str(value).lower()}" for key, value in choice.items()))
        try:
            taken = step_seconds(experiment, vocab_size, device, seconds)
        except Exception as error:  # no compiler, no bf16 kernel, out of memory: a choice that is not to be had
            choice["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        else:
            rate = experiment.training.batch_size * experiment.model_args.block_size / taken
            choice |= {"tokens_per_second": rate * (1 - padding), "step_seconds": taken}
            if peak := device.peak_flops():
                choice["mfu"] = rate * 3 * flops_per_token(experiment, vocab_size) / peak
        measured.append(choice)
        return choice

    for threads in _thread_counts(base):
        measure(replace(base, threads=threads, precision=_plain_precision(base), compile=False))
    working = [choice for choice in measured if "error" not in choice]
    if not working:
        raise EnvironmentFailure(f"{base.model} cannot train this experiment: {measured[0]['error']}")
    fastest = max(working, key=lambda c: c["tokens_per_second"])
    base = replace(base, threads=fastest["threads"])
    for kernels in _other_kernels(base):
        measure(replace(base, kernels=kernels, precision=_plain_precision(base), compile=False))
    for precision, compile in _other_choices(base):  # the native kernels are for none of these
        measure(replace(base, kernels=REFERENCE, precision=precision, compile=compile))
    best = max((c for c in measured if "error" not in c), key=lambda c: c["tokens_per_second"])
    sets = [f"training.{key}={str(best[key]).lower()}" for key in ("threads", "kernels", "precision", "compile")]
    own.activate()
    return {"name": experiment.name, "device": base.model, "choices": measured, "best": best, "sets": sets}


def step_seconds(experiment: Experiment, vocab_size: int, device: Device, seconds: float) -> float:
    """Median seconds of an optimizer step."""
    steps = stepper(experiment, vocab_size, device)
    steps(WARM_UP_STEPS)
    blocks, end = [steps(BLOCK_STEPS)], time.perf_counter() + seconds
    while time.perf_counter() < end:
        blocks.append(steps(BLOCK_STEPS))
    return statistics.median(blocks)


def stepper(experiment: Experiment, vocab_size: int, device: Device) -> Callable[[int], float]:
    """What takes so many whole optimizer steps on random tokens, and returns the seconds of one."""
    require_training_memory(experiment, vocab_size, device)
    device.activate()
    training = experiment.training
    model = model_of(experiment, vocab_size, "meta")
    trained = parallelize(model, World(), device, training)
    initialize(model, experiment.seed)
    objective = build_objective(TrainingContext(experiment, model, device))
    optimizer = build_optimizer(model, experiment)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocab_size, (training.batch_size, model.dims.block_size + 1), generator=generator)
    ids = ids.to(device.torch)
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(ids[:, 1:].shape, device=device.torch))
    rows = training.batch_size if training.micro_batch == "auto" else training.micro_batch

    def steps(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            for start in range(0, training.batch_size, rows):
                part = Batch(*(None if t is None else t[start : start + rows] for t in batch))
                with device.autocast():
                    loss, tokens, _ = objective(trained, part)
                (loss / tokens).backward()
            clip_gradients(list(model.parameters()), 1.0)
            optimizer.step(0.1)  # a rate at which random tokens do no harm
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / count

    return steps


def _thread_counts(base: Device) -> list[int]:
    if base.type != "cpu":
        return [base.threads]
    cores = available_cores()
    return sorted({1, max(1, cores // 2), cores, base.threads})


def _other_kernels(base: Device) -> list[str]:
    """Those of `auto`, all that this machine can have, and none, but for the ones that were measured."""
    plain = _plain_precision(base)
    found = [kernels_of("auto", base.type, plain), REFERENCE]
    with suppress(EnvironmentFailure):
        found.insert(1, kernels_of("native", base.type, plain))
    return [kernels for kernels in dict.fromkeys(found) if kernels != base.kernels]


def _plain_precision(base: Device) -> str:
    return "fp32" if base.type == "cpu" else base.precision


def _other_choices(base: Device) -> Iterator[tuple[str, bool]]:
    plain = _plain_precision(base)
    for precision in ("fp32", "bf16"):
        for compile in (False, True):
            if (precision, compile) != (plain, False):
                yield precision, compile
