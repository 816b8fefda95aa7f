"""A model that decodes by the kernels for few rows says what it says of the whole text."""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from foundry.core.config import from_plain
from foundry.core.contracts import Context, Dims
from foundry.core.kernels import native_kernels
from foundry.core.model import GPT, initialize, model_of
from foundry.core.registry import registry
from foundry.core.testing import Case, assert_rounded, sums_of
from foundry.core.testing.case import is_gated, vectors
from foundry.kernels import few_rows, whole_layers
from foundry.kernels.decoding import plan_decoding
from foundry.modules.attention.mha import MultiHeadAttention
from foundry.modules.ffn.dense import Dense

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
    """Whether each call of the kernel of attention found that it fits; all products are worth a kernel."""
    taken, next_token = [], whole_layers.AttentionStep.__call__

    def watch(*args, **settings):
        y = next_token(*args, **settings)
        taken.append(y is not None)
        return y

    monkeypatch.setattr(whole_layers.AttentionStep, "__call__", watch)
    monkeypatch.setattr(few_rows, "WORTH_IT", 0)
    return taken


def trained(**model_args) -> GPT:
    """Its norms, biases and gates are not those of a new model."""
    model = model_of(from_plain({"model_args": {**SIZES, **model_args}}), 50)
    generator = torch.Generator().manual_seed(0)
    initialize(model, seed=3)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def one_by_one(model: GPT, ids: Tensor, mask: Tensor | None) -> Tensor:
    cache, plan, pieces = model.init_cache(len(ids)), plan_decoding(model), []
    for stop in range(1, ids.size(1) + 1):
        seen = None if mask is None else mask[:, :stop]
        pieces.append(model.next_logits(ids[:, stop - 1 : stop], cache, seen, plan))
    return torch.stack(pieces, dim=1)


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
    layer, x = Case.of("attention", "mha").layer(dims=dims).part.eval(), vectors(1, 12, dims)
    plan = plan_decoding(layer)
    layer.train()

    def last() -> Tensor:
        cache = layer.init_cache(1, 12, torch.float32, "cpu")
        ctx = Context(cache=cache, plan=plan, positions=torch.tensor([[11]]))
        layer(x[:, :11], Context(cache=cache))
        with plan:
            return ctx.planned(layer)(x[:, 11:], ctx)[0]

    assert not torch.equal(last(), last())


@torch.no_grad()
def test_a_layers_cache_may_be_put_into_another_order(taken):
    """As a search among several continuations does, by the tensors that each cache shows."""
    model, ids = trained(), torch.tensor([[3, 5, 7], [2, 4, 6]])
    swapped, cache = ids.flip(0), model.init_cache(2)
    model(ids[:, :2], cache=cache)
    for each in cache:
        each.tensors = tuple(tensor.flip(0) for tensor in each.tensors)
    last = model.next_logits(swapped[:, 2:], cache, plan=plan_decoding(model))
    assert_rounded(last, model(swapped)[0][:, 2], *sums_of(model))
    assert taken == [True, True]


def hooked(called: list[nn.Module]):
    def hook(module: nn.Module, *given: object) -> None:
        called.append(module)

    return hook


@contextmanager
def everywhere(hook) -> Iterator[None]:
    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_whoever_hooks_into_a_layer_or_into_what_it_is_made_of_sees_each_token(taken, register):
    model, ids, seen = trained(attention=GQA), torch.tensor([[3, 5, 7, 1]]), list[nn.Module]()
    hooks = hooked(seen)
    before = plan_decoding(model).steps
    with everywhere(hooks):
        model.next_logits(ids[:, :1], model.init_cache(1))
    called = list(dict.fromkeys(seen))
    seen.clear()
    for module in called:
        handle = getattr(module, register)(hooks)
        one_by_one(model, ids, None)
        assert seen == [module] * 4, type(module)
        seen.clear()
        handle.remove()
    assert {model.blocks[0].ffn.activation, model.blocks[0].attention.q_norm, model.head} < {*called}
    assert plan_decoding(model).steps.keys() == before.keys()
    assert len(before) == 2 * SIZES["n_layer"]


@torch.no_grad()
def test_whoever_hooks_into_all_modules_sees_each_token(taken):
    model, ids, seen = trained(), torch.tensor([[3, 5, 7]]), list[nn.Module]()
    with everywhere(hooked(seen)):
        one_by_one(model, ids, None)
    assert seen.count(model.blocks[1].ffn.up_proj) == seen.count(model.blocks[0].attention.k_proj) == 3


class Shifted(MultiHeadAttention):
    """A subclass inherits what its parent says of itself, and computes something else."""

    def project(self, x, ctx):
        q, k, v = super().project(x, ctx)
        return q, k, v + 1


class Doubled(Dense):
    def forward(self, x, ctx):
        y, aux = super().forward(x, ctx)
        return 2 * y, aux


@torch.no_grad()
@pytest.mark.parametrize("change", ["subclass of attention", "subclass of a network", "own forward"])
def test_what_is_not_what_its_class_says_is_called(taken, change):
    model, ids = trained(attention="mha"), torch.tensor([[3, 5, 7]])
    attention, ffn = model.blocks[1].attention, model.blocks[1].ffn
    if change == "subclass of attention":
        attention.__class__ = Shifted
    elif change == "subclass of a network":
        ffn.__class__ = Doubled
    else:
        forward = ffn.forward
        ffn.forward = functools.update_wrapper(lambda x, ctx: (2 * forward(x, ctx)[0], {}), forward)
    assert_rounded(one_by_one(model, ids, None), model(ids)[0], *sums_of(model))
    assert len(plan_decoding(model).steps) == 2 * SIZES["n_layer"] - 1


@torch.no_grad()
def test_weights_may_change_from_one_text_to_the_next(taken):
    model, ids = trained(), torch.tensor([[3, 5, 7]])
    one_by_one(model, ids, None)
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.5
    assert_rounded(one_by_one(model, ids, None), model(ids)[0], *sums_of(model))


@torch.no_grad()
def test_another_thread_computes_as_ever(taken):
    model, ids = trained(), torch.tensor([[3, 5, 7]])
    expected = model(ids)[0]
    with plan_decoding(model), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(torch.no_grad()(lambda: model(ids)[0])).result(), expected)


FUNCTIONS = {
    "silu": F.silu, "sigmoid": torch.sigmoid, "gelu": F.gelu, "relu": F.relu, "relu2": lambda x: F.relu(x).square(),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"approximate": "tanh"}])
def test_an_activation_is_what_it_calls_itself(settings):
    """By which name a kernel takes its place."""
    gate, up = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    called = set()
    for name, variant in registry().variants("activation").items():
        if settings.keys() <= variant.params.model_fields.keys():
            case = Case.of("activation", name, settings)
            activation = case.build(case.dims)
            expected = FUNCTIONS[activation.nonlinearity](gate)
            assert (
                torch.equal(activation(gate, up), expected * up)
                if is_gated(case)
                else torch.equal(activation(gate), expected)
            )
            called.add(activation.nonlinearity)
    assert called == ({"gelu_tanh"} if settings else {*FUNCTIONS} - {"gelu_tanh"})
