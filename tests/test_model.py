"""What the model does with its own settings, whatever its parts are: by hand, of the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foundry.core.config import LayerSpec, ModelSpec, from_plain
from foundry.core.contracts import Dims, NoParams, ResidualParams
from foundry.core.model import GPT, initialize, model_of
from foundry.core.model.init import materialize, require_filled
from foundry.modules.activation import GatedParams
from foundry.modules.activation.swiglu import SwiGLU
from foundry.modules.attention import MHAParams
from foundry.modules.attention.mha import MultiHeadAttention
from foundry.modules.canon import NoCanonParams
from foundry.modules.ffn import DenseParams
from foundry.modules.ffn.dense import Dense
from foundry.modules.norm import RMSNormParams
from foundry.modules.norm.rmsnorm import RMSNorm
from foundry.modules.position import RoPEParams
from foundry.modules.position.rope import RoPE
from foundry.modules.residual.pre import Pre
from foundry.modules.scaling import NoneParams
from foundry.modules.scaling.none import NoScaling

pytestmark = pytest.mark.quick

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 16}


def model_with(**model_args) -> GPT:
    model = model_of(from_plain({"model_args": {**SIZES, **model_args}}), 97)
    initialize(model, seed=3)
    return model


def draw(rows: int = 8) -> torch.Tensor:
    return torch.randint(97, (rows, 16), generator=torch.Generator().manual_seed(1))


def hidden_states(hidden: torch.Tensor, head, aux) -> torch.Tensor:
    return hidden


def test_matrices_begin_as_in_gpt_2_gains_at_one_and_biases_at_zero():
    model = model_with(bias=True, tie_embeddings=False, norm="layernorm")
    deviation = {name: float(each.detach().std()) for name, each in model.named_parameters() if each.ndim == 2}
    assert all(0.018 < deviation[name] < 0.022 for name in ("embed.weight", "head.weight"))
    assert max(deviation.values()) < 0.022  # what writes into the stream may begin smaller
    for name, each in model.named_parameters():
        if each.ndim == 1:
            assert (each == (0 if name.endswith("bias") else 1)).all(), name


PARTS = {
    "attention": MultiHeadAttention, "ffn": Dense, "norm": RMSNorm, "activation": SwiGLU, "position": RoPE,
    "residual": Pre, "scaling": NoScaling,
}  # fmt: skip


def test_a_model_needs_no_experiment():
    """Sizes, params and classes are enough, without file or registry, for the model of an experiment of the same."""
    dims = Dims(n_layer=2, n_head=2, n_embd=64, head_dim=32, block_size=16, vocab_size=97)
    layer = LayerSpec(
        attention=MHAParams(), ffn=DenseParams(), norm=RMSNormParams(), activation=GatedParams(),
        position=RoPEParams(), residual=ResidualParams(), canon=NoCanonParams(), value_embedding=NoParams(),
    )  # fmt: skip
    spec = ModelSpec(
        dims, (layer, layer), position=layer.position, norm=layer.norm, skip=NoParams(), scaling=NoneParams(),
        tie_embeddings=True, logit_softcap=None,
    )  # fmt: skip
    model = GPT(spec, lambda slot, params, *args: PARTS[slot](params, *args))
    initialize(model, seed=3)
    with torch.no_grad():
        assert torch.equal(model(draw())[0], model_with()(draw())[0])


def test_what_is_made_without_memory_and_filled_is_what_was_made_with_it():
    """Weights that two modules share stay shared, and torch's batch norm, which knows nothing of Foundry, is filled."""

    def made(device: str) -> nn.Module:
        model = model_of(from_plain({"model_args": {**SIZES, "position": "sinusoidal"}}), 97, device)
        with torch.device(device):
            first, second = nn.Linear(4, 4), nn.Linear(4, 4)
            second.weight = first.weight
            model.extra = nn.ModuleList([first, second, nn.BatchNorm1d(4)])
        return model

    here, later = made("cpu"), made("meta")
    materialize(later, "cpu")
    for model in (here, later):
        initialize(model, seed=5)
        require_filled(model)
    assert later.extra[0].weight is later.extra[1].weight
    for (name, expected), tensor in zip(here.state_dict().items(), later.state_dict().values(), strict=True):
        assert torch.equal(expected, tensor), name
    with torch.no_grad():
        assert torch.equal(here.eval()(draw())[0], later.eval()(draw())[0])


def test_embeddings_are_dropped_in_training_alone():
    model = model_with(dropout=0.25)
    model.blocks, model.norm = nn.ModuleList(), nn.Identity()
    ids = draw(64)
    embedded = model.embed(ids)
    assert torch.equal(model.eval()(ids, read=hidden_states)[0], embedded)
    hidden = model.train()(ids, read=hidden_states)[0]
    kept = hidden != 0
    assert abs(kept.float().mean() - 0.75) < 0.01
    torch.testing.assert_close(hidden[kept], embedded[kept] / 0.75)


def test_a_softcap_bends_the_logits_and_keeps_them_within():
    free, capped = model_with(), model_with(logit_softcap=0.05)
    with torch.no_grad():
        logits = free(draw())[0]
        assert logits.abs().max() > 0.05
        torch.testing.assert_close(capped(draw())[0], 0.05 * torch.tanh(logits / 0.05))
