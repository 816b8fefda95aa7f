"""What a model costs, measured on the modules themselves: a forward pass on the meta device, which computes shapes
but no numbers, is watched by a FLOP counter and by autograd's own record of what it keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from foundry.core.blame import answers_for
from foundry.core.config.identity import canonical_params
from foundry.core.contracts import Batch
from foundry.core.counts import counted_once
from foundry.core.model import GPT, model_of
from foundry.core.model.promises import kept_promises

if TYPE_CHECKING:
    from foundry.core.config import Experiment

FP32_BYTES = 4


def flops_per_token(experiment: Experiment, vocab_size: int) -> float:
    """FLOPs of the matrix products of one forward pass over a block, per token; a multiply and an add are two.

    Padding costs as much as a token. Attention counts all T x T scores, as the field does, though causal kernels skip
    about half. Training costs three times as much: the backward pass has two products for each one of the forward pass.

    A model of Foundry's own variants is counted once on a machine; a plugin's are looked at each time.
    """
    total: float = counted_once(_forward_flops, experiment, vocab_size)["total"]
    return total


def training_bytes(experiment: Experiment, vocab_size: int) -> int:
    """What no step of a training can do without, on each rank: weights, gradients, the optimizer's state, the moving
    average. Without activations, of which a smaller micro-batch has less, and without gradients that are row-sparse.
    Of a plugin's optimizer no state is counted: it may keep less than others do."""
    model = model_of(experiment, vocab_size, "meta")
    weights = sum(parameter.numel() for parameter in model.parameters()) * FP32_BYTES
    tables = (module.weight for module in model.modules() if isinstance(module, nn.Embedding) and module.sparse)
    total = 2 * weights - sum(table.numel() for table in tables) * FP32_BYTES
    if experiment.training.ema:
        total += weights
    choice = experiment.training.optimizer
    variant = experiment.registry.variant("optimizer", choice.type)
    if not experiment.registry.is_foreign(variant):
        total += _optimizer_bytes(variant.load()(choice, model, experiment.training.learning_rate))
    return total


def analyze(experiment: Experiment, vocab_size: int) -> dict[str, Any]:
    """Parameters, FLOPs, KV bytes and an estimate of the training memory of `experiment`.

    Returns:
        parameters                 total; `active` of them take part in one token's forward pass
        parameters_by_part         embed, attention, ffn, norm, head, ... -> count
        flops_per_token            one forward pass, see `flops_per_token`; `by_part` likewise
        training_flops_per_token   forward and backward
        kv_bytes_per_token         what the caches of all layers hold for block_size tokens, per token, in fp32
        memory                     bytes of weights, gradients, optimizer and activations at the first micro-batch
        scaling                    the scale rule that acts: type, the sizes of its base that are not the model's, and
                                   what it multiplies in the forward pass
        learning_rates             the peak rate of each group of parameters, with that rule's factor in it
    """
    flops = counted_once(_forward_flops, experiment, vocab_size)
    decides_activations = [canonical_params(experiment.training.loss), experiment.training.gradient_checkpointing]
    model = model_of(experiment, vocab_size, "meta")
    by_part: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        by_part[_part(name)] += parameter.numel()
    total = sum(by_part.values())
    inactive = sum(getattr(module, "inactive_parameters", 0) for module in model.modules())
    factory = experiment.registry.variant("optimizer", experiment.training.optimizer.type).load()
    with answers_for(factory):
        optimizers = factory(experiment.training.optimizer, model, experiment.training.learning_rate)
        moments, rates = _optimizer_bytes(optimizers), _learning_rates(optimizers)
    micro = experiment.training.micro_batch
    rows = experiment.training.batch_size if micro == "auto" else micro
    memory = {
        "weights": total * FP32_BYTES,
        "gradients": total * FP32_BYTES,
        "optimizer": moments,
        "activations": rows * counted_once(_activation_bytes, experiment, vocab_size, *decides_activations),
    }
    if experiment.training.ema:
        memory["ema"] = total * FP32_BYTES
    return {
        "name": experiment.name,
        "vocab_size": vocab_size,
        "parameters": total,
        "active_parameters": total - inactive,
        "parameters_by_part": dict(by_part),
        "flops_per_token": flops["total"],
        "flops_per_token_by_part": flops["by_part"],
        "training_flops_per_token": 3 * flops["total"],
        "kv_bytes_per_token": counted_once(_cache_bytes, experiment, vocab_size) / model.dims.block_size,
        "memory": memory | {"total": sum(memory.values())},
        "scaling": model.scale.plain(),
        "learning_rates": rates,
    }


def _forward_flops(experiment: Experiment, model: GPT) -> dict[str, Any]:
    """Of a forward pass, per token: `total`, and `by_part`. Every part is seen at work here for the first time: what is
    wrong with its answers is told."""
    ids = torch.zeros(1, model.dims.block_size, dtype=torch.long, device="meta")
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: _grouped_mm_flops})
    with torch.no_grad(), counter, kept_promises(model, experiment.registry):
        model(ids)
    by_part: dict[str, float] = defaultdict(float)
    for module, counts in counter.get_flop_counts().items():
        path = module.split(".")  # "GPT.blocks.0.attention"
        if path[:2] == ["GPT", "blocks"] and len(path) == 4:
            by_part[path[3]] += sum(counts.values()) / model.dims.block_size
        elif path == ["GPT", "head"]:
            by_part["head"] += sum(counts.values()) / model.dims.block_size
    return {"total": counter.get_total_flops() / model.dims.block_size, "by_part": dict(by_part)}


def _grouped_mm_flops(rows: list[int], matrices: list[int], *_: Any, **__: Any) -> int:
    """Of (M, K) by (E, K, N), each row by one of the matrices: torch's counter does not know this product."""
    return 2 * rows[0] * rows[1] * matrices[-1]


def _cache_bytes(experiment: Experiment, model: GPT) -> int:
    """What the caches of all layers hold for one row."""
    with kept_promises(model, experiment.registry):
        caches = model.init_cache(1)
    return sum(t.numel() * t.element_size() for cache in caches for t in cache.tensors)


def _activation_bytes(experiment: Experiment, model: GPT) -> int:
    """Bytes that autograd keeps for the backward pass of one row, parameters left out."""
    loss = experiment.registry.build("loss", experiment.training.loss, model.dims)
    ids = torch.zeros(1, model.dims.block_size, dtype=torch.long, device="meta")
    model.gradient_checkpointing = experiment.training.gradient_checkpointing
    with kept_promises(loss, experiment.registry):
        return bytes_kept(model, lambda: model(ids, read=lambda hidden, head, aux: loss(hidden, head, Batch(ids, ids))))


def bytes_kept(module: nn.Module, forward: Callable[[], object]) -> int:
    """What autograd keeps of a forward pass for the backward pass, the module's parameters left out."""
    kept: set[torch.UntypedStorage] = set()  # the objects: on the meta device, nothing has an address
    weights = {parameter.untyped_storage() for parameter in module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()) not in weights:
            kept.add(storage)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in kept)


def _optimizer_bytes(optimizers: list[torch.optim.Optimizer]) -> int:
    """Two moments for Adam and its kin, one momentum for the rest."""
    return sum(
        parameter.numel() * FP32_BYTES * (2 if "betas" in group else 1)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


def _learning_rates(optimizers: list[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    """Optimizer and rate -> how many parameters."""
    counts: dict[tuple[str, float], int] = defaultdict(int)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            counts[type(optimizer).__name__, group["lr"]] += sum(parameter.numel() for parameter in group["params"])
    return [{"optimizer": name, "rate": rate, "parameters": count} for (name, rate), count in counts.items()]


def _part(parameter_name: str) -> str:
    path = parameter_name.split(".")
    return path[2] if path[0] == "blocks" else path[0]
