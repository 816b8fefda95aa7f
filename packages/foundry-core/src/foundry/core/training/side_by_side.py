"""Several models side by side: how long each takes for the same, in turns.

A machine's speed drifts, by more than models differ. So all contenders live in one process and take turns, one block
each in every round, and what is read is the ratio to the first one, round by round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from foundry.core.analyze import bytes_kept, flops_per_token
from foundry.core.config.assemble import edit
from foundry.core.contracts import Context, FoundryError
from foundry.core.kernels import plan_decoding
from foundry.core.model import GPT, initialize
from foundry.core.training.bench import WARM_UP_STEPS, stepper
from foundry.core.training.device import Device, matmul_rate, resolve, setting_of

if TYPE_CHECKING:
    from foundry.core.config import Experiment

SHORTEST_BLOCK = 0.02
"""Seconds: below, the clock and the scheduler are most of what is measured."""
DECODED = 16
"""Tokens that are written after a cached text, in a block."""

Block = Callable[[], float]
"""Works for a while, and returns the seconds of one piece of work."""


def bench_steps(
    experiments: Mapping[str, Experiment],
    vocab_sizes: Mapping[str, int],
    lengths: Sequence[int],
    rounds: int,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time whole optimizer steps of several experiments on random tokens. Every step has as many positions.

    Args:
        experiments: arm -> experiment, the first of which the others are held against; on its device, by its kernels.
        lengths: of the rows.

    Returns:
        the machine, and `arms`: for each arm and length `seconds` (the median, and the quartiles around it),
        `tokens_per_second`, `ratio` (of the seconds, to those of the arm that `of` names, the first that there is),
        `flops_per_second`, `mfu`; or `error`.
    """
    device, first = _device(experiments)
    positions = first.training.batch_size * first.model_args.block_size
    # A processor's limit is measured, and drifts as all else does: in the same turns.
    beside = {"limit": lambda: 1 / matmul_rate(device.torch, seconds=SHORTEST_BLOCK)} if device.type == "cpu" else {}

    def contender(name: str, length: int) -> tuple[Block, dict[str, Any]]:
        rows = max(1, positions // length)
        sized = edit(experiments[name], {"model_args.block_size": length, "training.batch_size": rows}, "bench step")
        steps = stepper(sized, vocab_sizes[name], device)
        work = 3 * flops_per_token(sized, vocab_sizes[name]) * rows * length
        steps(WARM_UP_STEPS)
        return lambda: steps(1), {"rows": rows, "flops": work}

    measured = []
    for row in _measure(experiments, lengths, rounds, contender, note, beside):
        work, of_limit = row.pop("flops", None), row.pop("limit", None)
        if work is not None:
            row["flops_per_second"] = work / row["seconds"]
            peak = device.peak_flops() if of_limit is None else 1 / of_limit
            row |= {"mfu": row["flops_per_second"] / peak} if peak else {}
        measured.append(row)
    return {**_machine(device), "rounds": rounds, "arms": measured}


def bench_attention(
    experiments: Mapping[str, Experiment],
    lengths: Sequence[int],
    rounds: int,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time the first layer's attention of several experiments, with its projections and without dropout: forward and
    backward, and a token that is written after a cached text.

    Args:
        experiments: arm -> experiment, as in `bench_steps`.

    Returns:
        as `bench_steps`, without FLOPs; and `bytes_kept` for the backward pass, `decode_seconds` of a token, and
        `kv_bytes_per_token`.
    """
    device, first = _device(experiments)
    positions = first.training.batch_size * first.model_args.block_size

    def contender(name: str, length: int) -> tuple[Block, dict[str, Any]]:
        sized = edit(experiments[name], {"model_args.block_size": length}, "bench attention")
        model = _one_layer(sized).to(device.torch)
        attention: Any = model.blocks[0].attention
        rows = max(1, positions // length)
        x = torch.randn(rows, length, model.dims.n_embd, device=device.torch, requires_grad=True)
        upstream = torch.randn_like(x)

        def forward() -> torch.Tensor:
            with device.autocast():
                y: torch.Tensor = attention(x, Context())[0]
            return y

        def step() -> None:
            y = forward()
            y.backward(upstream.to(y.dtype))
            model.zero_grad()
            x.grad = None

        step()
        kept = bytes_kept(attention, forward)
        decode, cached = _decoder(model, attention, x.detach()[:1], device)
        return _of_pieces(step, device), {
            "rows": rows,
            "bytes_kept": kept,
            "kv_bytes_per_token": cached,
            "also": decode,
        }

    measured = list(_measure(experiments, lengths, rounds, contender, note))
    return {**_machine(device), "rounds": rounds, "arms": measured}


def _device(experiments: Mapping[str, Experiment]) -> tuple[Device, Experiment]:
    first = next(iter(experiments.values()))
    device = resolve(first.training)
    device.activate()
    return device, first


def _machine(device: Device) -> dict[str, Any]:
    return {
        "device": device.model,
        "threads": device.threads,
        "precision": device.precision,
        "kernels": setting_of(device.kernels),
    }


def _measure(
    experiments: Mapping[str, Experiment],
    lengths: Sequence[int],
    rounds: int,
    contender: Callable[[str, int], tuple[Block, dict[str, Any]]],
    note: Callable[[str], None],
    beside: Mapping[str, Block] | None = None,
) -> Iterator[dict[str, Any]]:
    """For each length and arm what was measured, `{arm, length, ...}`.

    Args:
        beside: what takes its turn, too; each row has its median, by its name.
    """
    for length in lengths:
        blocks: dict[str, Block] = {}
        facts: dict[str, dict[str, Any]] = {}
        note(f"{length} tokens: {len(experiments)} arms are built")
        for name in experiments:
            try:
                blocks[name], facts[name] = contender(name, length)
            except (FoundryError, RuntimeError, MemoryError) as error:  # such as a memory that is too small
                facts[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        decoders = {name: facts[name].pop("also") for name in blocks if "also" in facts[name]}
        taken: dict[str, list[float]] = {}
        for done in range(1, rounds + 1):
            note(f"{length} tokens: round {done} of {rounds}")
            in_turn({**blocks, **(beside or {})}, taken)
        decoding: dict[str, list[float]] = {}
        for _ in range(rounds):
            in_turn(decoders, decoding)
        for name in experiments:
            row = {"arm": name, "length": length, **facts[name]}
            if name in blocks:
                first = next(iter(blocks))
                row |= {"of": first, **_figures(taken[name], taken[first])}
                row["tokens_per_second"] = row["rows"] * length / row["seconds"]
                row |= {each: statistics.median(taken[each]) for each in beside or ()}
            if name in decoders:
                row["decode_seconds"] = statistics.median(decoding[name])
            yield row


def in_turn(blocks: Mapping[str, Block], taken: dict[str, list[float]]) -> None:
    """One round: each block once, and its seconds to those that it took before."""
    for name, block in blocks.items():
        taken.setdefault(name, []).append(block())


def _figures(seconds: Sequence[float], of_first: Sequence[float]) -> dict[str, Any]:
    """The median and the quartiles of the seconds, and of their ratios to the first arm's, round by round."""
    ratios = [ours / first for ours, first in zip(seconds, of_first, strict=True)]
    return {
        "seconds": statistics.median(seconds),
        "seconds_between": _quartiles(seconds),
        "ratio": statistics.median(ratios),
        "ratio_between": _quartiles(ratios),
    }


def _quartiles(values: Sequence[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def _of_pieces(piece: Callable[[], None], device: Device) -> Block:
    """A block of as many pieces of work as the clock needs."""

    def pieces(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            piece()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / count

    count = max(1, round(SHORTEST_BLOCK / max(pieces(1), 1e-6)))
    return lambda: pieces(count)


def _one_layer(experiment: Experiment) -> GPT:
    """The first layer of an experiment's model, in eval mode, and a vocabulary of one token."""
    spec = experiment.model_spec(vocab_size=1)
    layer = experiment.layer_args(0).layer_spec()
    model = GPT(replace(spec, layers=(layer,), dims=replace(spec.dims, n_layer=1)), experiment.registry.build)
    initialize(model, experiment.seed)
    return model.eval()


def _decoder(model: GPT, attention: Any, text: torch.Tensor, device: Device) -> tuple[Block, float]:
    """What writes a few tokens after a cached text (1, T, C), by what decodes in `generate`; and the cache's bytes for
    each token."""
    length, plan = text.size(1), plan_decoding(model)
    cache = attention.init_cache(1, length + DECODED, text.dtype, device.torch)
    kept = sum(tensor.numel() * tensor.element_size() for tensor in cache.tensors) / (length + DECODED)
    places = torch.arange(length + DECODED, device=device.torch)[None]
    with torch.no_grad():
        attention(text, Context(positions=places[:, :length], cache=cache))

    @torch.no_grad()
    def block() -> float:
        own = deepcopy(cache)
        began = time.perf_counter()
        with plan or nullcontext():
            for place in range(length, length + DECODED):
                ctx = Context(positions=places[:, place : place + 1], cache=own, plan=plan)
                ctx.planned(attention)(text[:, -1:], ctx)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / DECODED

    block()
    return block, kept
