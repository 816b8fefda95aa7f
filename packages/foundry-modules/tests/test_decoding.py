"""A model that decodes by the kernels for few rows says what it says of the whole text."""

import pytest
import torch
from torch import Tensor

from foundry.core.config import from_plain
from foundry.core.contracts import Context, Dims
from foundry.core.kernels import native_kernels
from foundry.core.model import GPT, initialize, model_of
from foundry.core.testing import Case, assert_rounded, sums_of
from foundry.core.testing.case import vectors
from foundry.kernels import few_rows, whole_layers

native_kernels()  # what is compiled here is kept where everything that is compiled is
pytestmark = pytest.mark.skipif(bool(few_rows.missing()), reason=few_rows.missing())

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 24, "bias": True, "dropout": 0.5}
GQA = {"type": "gqa", "n_kv_head": 2, "qk_norm": True}
BY_ONE_KERNEL = {
    "groups": {"attention": GQA},
    "norms over all heads": {"attention": {**GQA, "n_kv_head": 1, "qk_norm_over": "all_heads"}, "activation": "gelu"},
    "values": {"head_dim": 64, "position": {"type": "rope", "fraction": 0.5}, "value_embedding": "gated"},
    "no positions": {"head_dim": 48, "position": "none", "activation": "relu2", "value_embedding": "table"},
    "scaled": {"scaling": "mup", "position": "learned", "norm": "layernorm"},
}
OTHERS = {
    "capped": {"attention": {"type": "mha", "softcap": 3.0}},
    "mixed": {"canon": "abcd", "head_dim": 32, "residual": "sandwich"},
    "window": {"attention": {"type": "sliding_window", "window": 5}},
    "biased": {"position": "alibi"},
    "narrow heads": {"head_dim": 8},
}


@pytest.fixture
def taken(monkeypatch):
    """Whether each call of the kernel of attention, while all of them are used, found that it fits."""
    taken, next_token = [], whole_layers.next_token

    def watch(*args, **settings):
        y = next_token(*args, **settings)
        taken.append(y is not None)
        return y

    monkeypatch.setattr(whole_layers, "next_token", watch)
    monkeypatch.setattr(few_rows, "WORTH_IT", 0)
    with few_rows.Used():
        yield taken


def trained(**model_args) -> GPT:
    """Its norms, biases and gates are not those of a new model."""
    model = model_of(from_plain({"model_args": {**SIZES, **model_args}}), 50)
    generator = torch.Generator().manual_seed(0)
    initialize(model, seed=3)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def one_by_one(model: GPT, ids: Tensor, mask: Tensor | None) -> Tensor:
    cache, pieces = model.init_cache(len(ids)), []
    for stop in range(1, ids.size(1) + 1):
        seen = None if mask is None else mask[:, :stop]
        pieces.append(model(ids[:, stop - 1 : stop], cache=cache, attention_mask=seen)[0])
    return torch.cat(pieces, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["none", "of each row", "of all rows"])
@pytest.mark.parametrize("name", [*BY_ONE_KERNEL, *OTHERS])
def test_a_token_after_a_cache_is_that_of_the_whole_text(taken, name, padding):
    model = trained(**BY_ONE_KERNEL.get(name) or OTHERS[name])
    ids = torch.randint(50, (4, 24), generator=torch.Generator().manual_seed(0))
    mask = None
    if padding != "none":
        mask = torch.ones(4 if padding == "of each row" else 1, 24, dtype=torch.bool)
        mask[:, :2] = False
        mask[1:, :4] = False
    tokens = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.expand_as(ids)
    whole = model(ids, attention_mask=mask)[0]
    assert_rounded(one_by_one(model, ids, mask)[tokens], whole[tokens], *sums_of(model))
    if name in OTHERS:
        assert not any(taken)
    else:
        assert taken
        assert all(taken)


@torch.no_grad()
def test_weights_are_dropped_in_training_from_a_cache_too(taken):
    dims = Dims(n_layer=2, n_head=2, n_embd=32, head_dim=16, block_size=12, dropout=0.5)
    layer, x = Case.of("attention", "mha").layer(dims=dims).train(), vectors(1, 12, dims)

    def last() -> Tensor:
        cache = layer.init_cache(1, 12)
        layer(x[:, :11], Context(cache=cache))
        return layer(x[:, 11:], Context(cache=cache))

    assert not torch.equal(last(), last())


@torch.no_grad()
def test_a_layers_cache_may_be_put_into_another_order(taken):
    """As a search among several continuations does, by the tensors that each cache shows."""
    model, ids = trained(), torch.tensor([[3, 5, 7], [2, 4, 6]])
    swapped, cache = ids.flip(0), model.init_cache(2)
    model(ids[:, :2], cache=cache)
    for each in cache:
        each.tensors = tuple(tensor.flip(0) for tensor in each.tensors)
    assert_rounded(model(swapped[:, 2:], cache=cache)[0], model(swapped)[0][:, 2:], *sums_of(model))
