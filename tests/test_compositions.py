"""Every pair of choices for two parts of the model is refused with a reason, or makes a model that trains and decodes.

The pairs come from the registry, so that a new variant is walked without an edit here. A few, drawn with a fixed seed,
belong to the everyday tests; `pytest -m slow` walks all of them, and with FOUNDRY_SLOW_DOSE=small a few more.
"""

from __future__ import annotations

import random
from itertools import combinations

import pytest
import torch
from tests.doses import dose

from foundry.core.config import Experiment, from_plain
from foundry.core.contracts import Batch, InvalidExperiment
from foundry.core.model import GPT, initialize, model_of
from foundry.core.registry import registry
from foundry.core.testing import sums_of
from foundry.core.testing.rounding import rounding
from foundry.core.training.device import resolve
from foundry.core.training.objective import TrainingContext, build_objective

VOCAB, T = 31, 24
SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": T}

Choice = tuple[str, str]
"""(slot, variant or shorthand)"""


def choices() -> dict[str, list[Choice]]:
    """Slot -> its choices, for every slot of the architecture."""
    known = registry()
    parts = [slot.name for slot in known.slots.values() if slot.section == "model_args"]
    return {slot: [(slot, name) for name in (*known.variants(slot), *known.shorthands(slot))] for slot in parts}


def pairs() -> list:
    found = [(a, b) for one, other in combinations(choices().values(), 2) for a in one for b in other]
    random.Random(0).shuffle(found)
    return [pytest.param(pair, id="-".join(map("_".join, pair))) for pair in found]


def experiment_of(*chosen: Choice) -> Experiment:
    return from_plain({"model_args": {**SIZES, **dict(chosen)}})


@pytest.mark.parametrize("choice", [choice for slot in choices().values() for choice in slot], ids="_".join)
def test_every_choice_goes_with_the_defaults(choice):
    experiment_of(choice)


@pytest.mark.parametrize("pair", dose(pairs(), everyday=20))
def test_two_choices_compose_or_are_refused_with_the_reason(pair):
    try:
        experiment = experiment_of(*pair)
    except InvalidExperiment as error:
        refusal = error.message
        assert any(f"model_args.{slot}" in refusal for slot, _ in pair)
        return
    model = model_of(experiment, VOCAB)
    initialize(model, seed=1)
    trains(model, experiment)
    decodes(model)


def trains(model: GPT, experiment: Experiment) -> None:
    """Finite loss, and finite gradients, some of them other than zero."""
    ids = torch.randint(VOCAB, (2, T + 1), generator=torch.Generator().manual_seed(0))
    objective = build_objective(TrainingContext(experiment, model, resolve(experiment.training)))
    total, count, aux = objective(model.train(), Batch(ids[:, :-1], ids[:, 1:]))
    assert count == 2 * T
    assert total.isfinite()
    sum([total / count, *(value.mean() for name, value in aux.items() if name.endswith("_loss"))]).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    gradients = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


@torch.no_grad()
def decodes(model: GPT) -> None:
    """What is computed from the cache, in pieces of several tokens and token by token, is the full forward pass."""
    model.eval()
    for parameter in model.parameters():  # gates and gains that begin at 0 or 1 would hide what they gate
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)), alpha=0.02)
    # Where two experts are nearly as good, rounding chooses one. That happens to a text in a thousand, a fault to all.
    assert min(decoding_error(model, seed) for seed in (0, 1)) <= rounding(torch.float32, *sums_of(model))


def decoding_error(model: GPT, seed: int) -> float:
    """Relative to the largest logit."""
    ids = torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(seed))
    expected, _ = model(ids)
    cache, pieces = model.init_cache(2), []
    for start, stop in [(0, 9), (9, 13), *((t, t + 1) for t in range(13, T))]:
        logits, cache = model(ids[:, start:stop], cache=cache)
        pieces.append(logits)
    return float((torch.cat(pieces, 1) - expected).abs().max() / expected.abs().max())
